//! The contract of stores, and the law that they execute.
mod law;
mod model;
mod rights;
mod search;
mod shadow;
mod world;
