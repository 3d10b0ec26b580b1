//! stub
#![allow(
    missing_docs,
    clippy::missing_errors_doc,
    clippy::unused_async,
    clippy::needless_pass_by_value,
    dead_code
)]
use super::search::Search;
use crate::plan::Survey;
use jiff::Timestamp;
use std::sync::Arc;
#[derive(Clone, Debug)]
pub struct Objects;
#[derive(Debug, thiserror::Error)]
#[error("stub")]
pub struct ObjectsError;
impl ObjectsError {
    pub fn is_transient(&self) -> bool {
        false
    }
}
#[derive(Clone, Debug)]
pub struct Entry {
    pub path: Vec<u8>,
    pub version: Option<String>,
    pub is_marker: bool,
    pub start: Option<Timestamp>,
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
}
#[derive(Debug)]
pub enum Left {
    Blocked { until: Option<Timestamp> },
    Refused(String),
    Changed,
}
#[derive(Debug)]
pub struct ObjectWalk;
impl ObjectWalk {
    pub async fn next(&mut self, _most: usize) -> Result<Option<Vec<Entry>>, ObjectsError> {
        Err(ObjectsError)
    }
}
impl Objects {
    pub fn name(&self) -> &crate::types::Name {
        unimplemented!()
    }
    pub async fn survey(&self, _search: &Arc<Search>) -> Result<Survey, ObjectsError> {
        Err(ObjectsError)
    }
    pub async fn sample(
        &self,
        _search: &Arc<Search>,
        _limit: usize,
    ) -> Result<Vec<Entry>, ObjectsError> {
        Err(ObjectsError)
    }
    pub async fn starts(&self, _search: &Arc<Search>) -> Result<Starts, ObjectsError> {
        Err(ObjectsError)
    }
    pub async fn in_order(
        &self,
        _search: &Arc<Search>,
        _after: Option<&[u8]>,
        _upto: Option<&[u8]>,
        _each: &mut (dyn FnMut(Entry) + Send),
    ) -> Result<(), ObjectsError> {
        Err(ObjectsError)
    }
    pub fn walk(&self, _search: Arc<Search>) -> ObjectWalk {
        ObjectWalk
    }
    pub async fn delete(
        &self,
        _search: &Arc<Search>,
        _entries: Vec<Entry>,
    ) -> Result<Deleted, ObjectsError> {
        Err(ObjectsError)
    }
    pub async fn look(
        &self,
        _entries: Vec<(Vec<u8>, Option<String>)>,
    ) -> Result<Vec<bool>, ObjectsError> {
        Err(ObjectsError)
    }
    pub async fn newest(&self, _path: &[u8]) -> Result<Option<Entry>, ObjectsError> {
        Err(ObjectsError)
    }
    pub async fn find(&self, _search: &Arc<Search>) -> Result<Vec<Entry>, ObjectsError> {
        Err(ObjectsError)
    }
}
