//! The exports of a store: every object whose name the protocol can say.
//!
//! Guarantees that a name that is not text, or holds a zero byte, is neither listed nor found; the
//! protocol has no such names. The empty name is the default export: the only object, if there is
//! one. Does not keep exports: each connection opens its own handle, because read-ahead belongs to a
//! handle. Called by `handshake` and `manage`.

use std::sync::Arc;

use foliant::Engine;
use foliant::ErrorKind;

use crate::nbd::export::Export;
use crate::nbd::limits::NAME_BYTES_MAX;
use crate::nbd::limits::NAMES_PER_PAGE;
use crate::nbd::limits::PINNED_SHARE;
use crate::nbd::pins::Pins;

/// The exports of an engine.
#[derive(Debug, Clone)]
pub struct Catalog {
    engine: Engine,
    pins: Pins,
    read_only: bool,
}

/// The name of an object, if the protocol can say it.
pub fn speakable(name: Vec<u8>) -> Option<String> {
    let text = String::from_utf8(name).ok()?;
    (!text.contains('\0')).then_some(text)
}

impl Catalog {
    /// All objects of `engine`; changes are refused if `read_only`.
    pub fn new(engine: Engine, read_only: bool) -> Self {
        let pins = Pins::new(engine.stats().memory_budget_bytes / PINNED_SHARE);
        Self { engine, pins, read_only }
    }

    /// The names behind `after`, in order, and where to go on: `None` at the end.
    pub async fn names(&self, after: &[u8]) -> foliant::Result<(Vec<String>, Option<Vec<u8>>)> {
        let page = self.engine.list(after, NAMES_PER_PAGE).await?;
        let next = page.last().filter(|_| page.len() == NAMES_PER_PAGE).cloned();
        Ok((page.into_iter().filter_map(speakable).collect(), next))
    }

    /// The export of this name, if there is one.
    pub async fn find(&self, name: &str) -> foliant::Result<Option<Arc<Export>>> {
        let name = match name.is_empty() {
            true => match self.only().await? {
                Some(name) => name,
                None => return Ok(None),
            },
            false => name.to_owned(),
        };
        if name.len() > NAME_BYTES_MAX {
            return Ok(None);
        }
        match self.engine.object(&name).await {
            Ok(object) => {
                let (engine, pins) = (self.engine.clone(), self.pins.clone());
                Ok(Some(Arc::new(Export::new(engine, object, name, pins, self.read_only))))
            }
            Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(cause),
        }
    }

    async fn only(&self) -> foliant::Result<Option<String>> {
        let mut names = self.engine.list("", 2).await?;
        let only = if names.len() == 1 { names.pop() } else { None };
        Ok(only.and_then(speakable))
    }
}
