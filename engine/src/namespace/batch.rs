//! Changes of names and records inside a transaction of users: create, rename, remove, attributes, one after the
//! other.
//!
//! Guarantees: each step sees those before it; a step that cannot be taken ends the commit, and nothing has
//! changed; what is made can be opened by its name as soon as the name is there. Does not free what removed
//! objects held: the caller finishes the removals behind the commit. Called by `api::transaction`.

use std::sync::Arc;

use crate::alloc::Ticket;
use crate::alloc::space::NODES_PER_CHANGE;
use crate::error::Result;
use crate::format::object_record::ObjectRecord;
use crate::meta::MetaTxn;
use crate::namespace::ops;
use crate::object::journaled::Beside;
use crate::object::open::OpenObject;
use crate::object::records;
use crate::object::table::Table;
use crate::units::Lsn;
use crate::units::ObjectId;

/// One change of names or of a record.
#[derive(Debug)]
pub enum Step {
    /// The prepared object is made and gets the name.
    Create {
        /// Its name.
        name: Vec<u8>,
        /// What [`Table::prepare`] gave.
        object: Arc<OpenObject>,
    },
    /// An object gets another name.
    Rename {
        /// The name that it has.
        from: Vec<u8>,
        /// The name that nobody has.
        to: Vec<u8>,
    },
    /// A name goes, and its object with it.
    Remove {
        /// The name.
        name: Vec<u8>,
    },
    /// An object gets other attributes.
    Attributes {
        /// The object; if the transaction makes it, an earlier step did.
        object: Arc<OpenObject>,
        /// At most [`ATTRIBUTE_BYTES_MAX`](crate::limits::ATTRIBUTE_BYTES_MAX) of them.
        attributes: Vec<u8>,
    },
}

/// The changes of names of one transaction.
#[derive(Debug)]
pub struct Batch<'a> {
    table: &'a Table,
    steps: &'a [Step],
    removed: Vec<ObjectId>,
}

impl<'a> Batch<'a> {
    /// These steps, in their order.
    pub fn new(table: &'a Table, steps: &'a [Step]) -> Self {
        Self { table, steps, removed: Vec::new() }
    }

    /// The objects whose removal is to be finished behind the commit.
    pub fn into_removed(self) -> Vec<ObjectId> {
        self.removed
    }
}

impl Beside for Batch<'_> {
    fn promises(&self) -> u64 {
        // Removals work on a full volume.
        let grows = self.steps.iter().filter(|step| !matches!(step, Step::Remove { .. }));
        grows.count() as u64 * NODES_PER_CHANGE
    }

    /// Errors: `AlreadyExists`, `NotFound`, `Closed`, `NoSpace`, `Corrupt`, `Device`.
    async fn apply(&mut self, txn: &mut MetaTxn, ticket: &mut Ticket) -> Result<()> {
        self.removed.clear();
        for step in self.steps {
            match step {
                Step::Create { name, object } => {
                    let id = object.state().id();
                    ops::insert(txn, ticket, name, id).await?;
                    records::create_as(txn, ticket, id, &ObjectRecord::default()).await?;
                }
                Step::Rename { from, to } => ops::rename_in(txn, ticket, from, to).await?,
                Step::Remove { name } => {
                    self.removed.push(ops::remove_in(txn, ticket, name).await?);
                }
                Step::Attributes { object, attributes } => {
                    let state = object.state();
                    // Its record may be on its way out, or gone.
                    state.check_present()?;
                    records::set_attributes(txn, ticket, state.id(), attributes).await?;
                }
            }
        }
        Ok(())
    }

    fn accepted(&self, lsn: Lsn) {
        for step in self.steps {
            match step {
                Step::Create { object, .. } => {
                    object.state().committed(lsn, None, &[]);
                    self.table.adopt(object);
                }
                Step::Attributes { object, .. } => object.state().committed(lsn, None, &[]),
                Step::Rename { .. } | Step::Remove { .. } => {}
            }
        }
    }
}
