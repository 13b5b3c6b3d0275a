//! LevelDB's files as they are, under a sheet of memory that takes all writes.
//!
//! Opening a LevelDB changes it: logs become tables, a new MANIFEST is written, files that seem obsolete are deleted, and
//! that is how a damaged store becomes an empty one. Behind this `Env` it can be opened, recovered and read without
//! touching the disk: what it creates, renames and deletes happens in memory only.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::io::{self, Cursor, Read, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rusty_leveldb::env::{Env, FileLock, Logger, RandomAccess};
use rusty_leveldb::{Result, Status, StatusCode};

use crate::store::level::env::{FailStop, list, not_supported, open_for_scan, open_table};

type Contents = Rc<RefCell<Vec<u8>>>;

/// The disk, read-only, under a sheet of memory.
#[derive(Debug)]
pub(crate) struct OverlayEnv {
    /// What differs from the disk: a file's contents, or `None` for a deleted one.
    sheet: RefCell<HashMap<PathBuf, Option<Contents>>>,
    stop: Rc<FailStop>,
}

impl OverlayEnv {
    /// An environment that trips `stop` when the disk cannot be read.
    pub(crate) fn new(stop: Rc<FailStop>) -> Self {
        Self { sheet: RefCell::default(), stop }
    }

    /// The file's contents if it is on the sheet, `None` if the disk decides.
    fn on_sheet(&self, path: &Path) -> Result<Option<Contents>> {
        match self.sheet.borrow().get(path) {
            None => Ok(None),
            Some(Some(contents)) => Ok(Some(Rc::clone(contents))),
            Some(None) => Err(Status::new(StatusCode::NotFound, "deleted")),
        }
    }

    fn put(&self, path: &Path, contents: Vec<u8>) -> Box<dyn Write> {
        let contents = Rc::new(RefCell::new(contents));
        self.sheet.borrow_mut().insert(path.to_owned(), Some(Rc::clone(&contents)));
        Box::new(SheetWriter(contents))
    }
}

impl Env for OverlayEnv {
    fn open_sequential_file(&self, path: &Path) -> Result<Box<dyn Read>> {
        match self.on_sheet(path)? {
            Some(contents) => Ok(Box::new(Cursor::new(contents.borrow().clone()))),
            None => open_for_scan(path, &self.stop),
        }
    }

    fn open_random_access_file(&self, path: &Path) -> Result<Box<dyn RandomAccess>> {
        match self.on_sheet(path)? {
            Some(contents) => Ok(Box::new(SheetTable(contents))),
            None => open_table(path, &self.stop),
        }
    }

    fn open_writable_file(&self, path: &Path) -> Result<Box<dyn Write>> {
        Ok(self.put(path, Vec::new()))
    }

    fn open_appendable_file(&self, _: &Path) -> Result<Box<dyn Write>> {
        not_supported("append")
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        match self.sheet.borrow().get(path) {
            Some(contents) => Ok(contents.is_some()),
            None => Ok(path.try_exists()?),
        }
    }

    fn children(&self, dir: &Path) -> Result<Vec<PathBuf>> {
        let sheet = self.sheet.borrow();
        let mut names = list(dir)?;
        names.retain(|name| !sheet.contains_key(&dir.join(name)));
        let added = sheet.iter().filter(|(path, contents)| contents.is_some() && path.parent() == Some(dir));
        names.extend(added.filter_map(|(path, _)| path.file_name().map(PathBuf::from)));
        Ok(names)
    }

    fn size_of(&self, path: &Path) -> Result<usize> {
        match self.on_sheet(path)? {
            Some(contents) => Ok(contents.borrow().len()),
            None => Ok(fs::metadata(path)?.len() as usize),
        }
    }

    fn delete(&self, path: &Path) -> Result<()> {
        self.sheet.borrow_mut().insert(path.to_owned(), None);
        Ok(())
    }

    fn mkdir(&self, _: &Path) -> Result<()> {
        Ok(())
    }

    fn rmdir(&self, _: &Path) -> Result<()> {
        not_supported("rmdir")
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let contents = match self.on_sheet(from)? {
            Some(contents) => contents,
            None => Rc::new(RefCell::new(fs::read(from)?)),
        };
        let mut sheet = self.sheet.borrow_mut();
        sheet.insert(from.to_owned(), None);
        sheet.insert(to.to_owned(), Some(contents));
        Ok(())
    }

    fn lock(&self, path: &Path) -> Result<FileLock> {
        Ok(FileLock { id: path.display().to_string() })
    }

    fn unlock(&self, _: FileLock) -> Result<()> {
        Ok(())
    }

    fn new_logger(&self, _: &Path) -> Result<Logger> {
        Ok(Logger::new(Box::new(io::sink())))
    }

    fn micros(&self) -> u64 {
        0
    }

    fn sleep_for(&self, _: u32) {}
}

struct SheetWriter(Contents);

impl Write for SheetWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct SheetTable(Contents);

impl RandomAccess for SheetTable {
    fn read_at(&self, offset: usize, buf: &mut [u8]) -> Result<usize> {
        let contents = self.0.borrow();
        let from = contents.get(offset..).unwrap_or_default();
        let len = from.len().min(buf.len());
        buf[..len].copy_from_slice(&from[..len]);
        Ok(len)
    }
}
