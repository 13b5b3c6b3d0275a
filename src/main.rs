//! The `lockfs` command; see `lockfs::cli`.

fn main() -> std::process::ExitCode {
    lockfs::cli::main()
}
