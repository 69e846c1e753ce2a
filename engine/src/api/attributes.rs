//! The attributes of an object: bytes of the user's own in its record.
//!
//! Guarantees that they are replaced whole or not at all, whatever happens, and that a sync of the object makes
//! them durable. Does not look at them, and keeps no copy. Called by users.

use bytes::Bytes;

use crate::api::object::Object;
use crate::api::transaction::Transaction;
use crate::error::Result;
use crate::object::records;

impl Object {
    /// The attributes: up to [`ATTRIBUTE_BYTES_MAX`](crate::limits::ATTRIBUTE_BYTES_MAX) bytes that mean something
    /// to the caller alone, kept in the record of the object; none at first.
    ///
    /// Errors: `NotFound` (the transaction that makes the object is not committed), `Closed`, `Corrupt`, `Device`,
    /// `OutOfMemory`. Dropping the future has no effect.
    pub async fn attributes(&self) -> Result<Bytes> {
        self.check()?;
        let state = self.opened().state();
        let view = self.volume().table.ground().meta.read().await;
        let found = records::attributes(&view, state.id()).await;
        // Removed since: then there may be no record.
        state.check_present()?;
        found.map(Bytes::from)
    }

    /// Gives the object other attributes: a transaction of that alone, seen at once and durable with the next
    /// [`Object::sync`] or by itself. With other changes in one: [`Transaction::set_attributes`].
    ///
    /// Errors: `InvalidInput` (too long), and as [`Transaction::commit_with`]. Dropping the future: it has happened,
    /// or nothing has.
    pub async fn set_attributes(&self, attributes: &[u8]) -> Result<()> {
        self.check()?;
        let mut transaction = Transaction::new(self.engine().clone());
        transaction.set_attributes(self, attributes)?;
        transaction.commit().await.map(|_| ())
    }
}
