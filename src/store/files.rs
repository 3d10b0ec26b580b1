//! stub
#![allow(
    missing_docs,
    clippy::missing_errors_doc,
    clippy::unused_async,
    clippy::needless_pass_by_value,
    dead_code
)]
use super::search::Search;
use super::sql::Access;
use crate::plan::Survey;
use crate::types::Name;
use jiff::Timestamp;
use std::path::PathBuf;
use std::sync::Arc;
#[derive(Clone, Debug)]
pub struct Settings {
    pub root: PathBuf,
    pub cross_mounts: bool,
    pub remove_empty_folders: bool,
}
#[derive(Clone, Debug)]
pub struct Files;
#[derive(Debug, thiserror::Error)]
#[error("stub")]
pub struct FilesError;
impl FilesError {
    pub fn is_transient(&self) -> bool {
        false
    }
}
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    pub device: u64,
    pub inode: u64,
}
#[derive(Clone, Debug)]
pub struct Entry {
    pub path: Vec<u8>,
    pub start: Option<Timestamp>,
    pub identity: Identity,
}
#[derive(Debug)]
pub struct Starts {
    pub oldest: Option<Timestamp>,
    pub next: Option<Timestamp>,
}
#[derive(Debug)]
pub struct Deleted {
    pub gone: Vec<usize>,
    pub kept: Vec<(usize, Left)>,
    pub other_links: u64,
    pub open_elsewhere: u64,
    pub folders: u64,
}
#[derive(Debug)]
pub enum Left {
    Changed,
    Refused(&'static str),
}
#[derive(Debug)]
pub struct FileWalk;
impl FileWalk {
    pub async fn next(&mut self, _most: usize) -> Result<Option<Vec<Entry>>, FilesError> {
        Err(FilesError)
    }
}
impl Files {
    pub fn name(&self) -> &crate::types::Name {
        unimplemented!()
    }
    pub fn open(_store: Name, _settings: Settings, _access: Access) -> Result<Files, FilesError> {
        Err(FilesError)
    }
    pub async fn survey(&self, _search: &Arc<Search>) -> Result<Survey, FilesError> {
        Err(FilesError)
    }
    pub async fn sample(
        &self,
        _search: &Arc<Search>,
        _limit: usize,
    ) -> Result<Vec<Entry>, FilesError> {
        Err(FilesError)
    }
    pub async fn starts(&self, _search: &Arc<Search>) -> Result<Starts, FilesError> {
        Err(FilesError)
    }
    pub async fn in_order(
        &self,
        _search: &Arc<Search>,
        _after: Option<&[u8]>,
        _upto: Option<&[u8]>,
        _each: &mut (dyn FnMut(Entry) + Send),
    ) -> Result<(), FilesError> {
        Err(FilesError)
    }
    pub fn walk(&self, _search: Arc<Search>) -> FileWalk {
        FileWalk
    }
    pub async fn delete(
        &self,
        _search: &Arc<Search>,
        _entries: Vec<Entry>,
    ) -> Result<Deleted, FilesError> {
        Err(FilesError)
    }
    pub async fn look(&self, _paths: Vec<Vec<u8>>) -> Result<Vec<Option<Entry>>, FilesError> {
        Err(FilesError)
    }
    pub async fn find(&self, _search: &Arc<Search>) -> Result<Vec<Entry>, FilesError> {
        Err(FilesError)
    }
}
