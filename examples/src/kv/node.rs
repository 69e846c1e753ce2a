//! A tree node, for changing: insert, remove, overwrite, cut, append.
//!
//! Guarantees that a change touches few bytes (the log carries them) unless the page must be
//! compacted, and that a refused change leaves the page as it was. Does not know the tree. Called
//! by `tree` and `balance`; checked against a model in `tests`.

use crate::kv::error::Result;
use crate::kv::error::damaged;
use crate::kv::limits::PAGE_BYTES;
use crate::kv::page::HEADER;
use crate::kv::page::Kind;
use crate::kv::page::Node;
use crate::kv::page::put_u16;
use crate::kv::page::put_u32;
use crate::kv::units::Page;
use crate::kv::units::PageNo;

/// A tree node that may be changed.
pub struct NodeMut<'a> {
    no: PageNo,
    page: &'a mut Page,
}

impl<'a> NodeMut<'a> {
    /// Makes `page` an empty node; `link` is the first child of an inner one.
    pub fn format(no: PageNo, page: &'a mut Page, kind: Kind, link: PageNo) -> Self {
        assert!(matches!(kind, Kind::Leaf | Kind::Inner), "{kind:?} is no node");
        page[..HEADER].fill(0);
        page[0] = kind as u8;
        put_u16(page, 4, PAGE_BYTES);
        put_u32(page, 8, link);
        put_u32(page, 12, no);
        Self { no, page }
    }

    /// Checks the header.
    pub fn open(no: PageNo, page: &'a mut Page) -> Result<Self> {
        Node::open(no, page)?;
        Ok(Self { no, page })
    }

    fn node(&self) -> Node<'_> {
        Node::open(self.no, self.page).expect("the header was checked and is kept sound")
    }

    /// Puts `cell` at `index`; false if there is no room.
    pub fn insert(&mut self, index: usize, cell: &[u8]) -> Result<bool> {
        let node = self.node();
        let len = node.len();
        assert!(index <= len, "insert at {index} of {len}");
        let slots_end = HEADER + 2 * len;
        let need = cell.len() + 2;
        if node.start() - slots_end + node.garbage() < need {
            return Ok(false);
        }
        if node.start() - slots_end < need {
            self.compact()?;
            if self.node().start() - slots_end < need {
                return damaged(self.no, "its free bytes are counted wrong");
            }
        }
        let at = self.node().start() - cell.len();
        self.page[at..at + cell.len()].copy_from_slice(cell);
        self.page.copy_within(HEADER + 2 * index..slots_end, HEADER + 2 * index + 2);
        put_u16(self.page, HEADER + 2 * index, at);
        put_u16(self.page, 2, len + 1);
        put_u16(self.page, 4, at);
        Ok(true)
    }

    /// Takes the cell at `index` away.
    pub fn remove(&mut self, index: usize) -> Result<()> {
        let node = self.node();
        let (len, start, garbage) = (node.len(), node.start(), node.garbage());
        let (at, bytes) = (node.slot(index), node.cell(index)?.bytes.len());
        let slots_end = HEADER + 2 * len;
        let all_free = garbage + bytes;
        if all_free > PAGE_BYTES - start {
            return damaged(self.no, "its free bytes are counted wrong");
        }
        self.page.copy_within(HEADER + 2 * index + 2..slots_end, HEADER + 2 * index);
        put_u16(self.page, 2, len - 1);
        if at == start {
            put_u16(self.page, 4, start + bytes);
        } else {
            put_u16(self.page, 6, all_free);
        }
        Ok(())
    }

    /// Replaces the cell at `index` where it lies; false if it has another length.
    pub fn overwrite(&mut self, index: usize, cell: &[u8]) -> Result<bool> {
        let node = self.node();
        let at = node.slot(index);
        if node.cell(index)?.bytes.len() != cell.len() {
            return Ok(false);
        }
        self.page[at..at + cell.len()].copy_from_slice(cell);
        Ok(true)
    }

    /// Forgets the cells from `index` on.
    pub fn cut(&mut self, index: usize) -> Result<()> {
        while self.node().len() > index {
            self.remove(self.node().len() - 1)?;
        }
        Ok(())
    }

    /// Replaces all cells; an error if they do not fit.
    pub fn append_all<C: AsRef<[u8]>>(&mut self, cells: &[C]) -> Result<()> {
        for cell in cells {
            let end = self.node().len();
            if !self.insert(end, cell.as_ref())? {
                return damaged(self.no, "its cells overlap");
            }
        }
        Ok(())
    }

    /// Moves the cells together, so that all free bytes are in one piece.
    fn compact(&mut self) -> Result<()> {
        let cells = cells_of(self.node())?;
        let live: usize = cells.iter().map(|c| c.len() + 2).sum();
        if HEADER + live > PAGE_BYTES {
            return damaged(self.no, "its cells overlap");
        }
        let mut at = PAGE_BYTES;
        for (index, cell) in cells.iter().enumerate() {
            at -= cell.len();
            self.page[at..at + cell.len()].copy_from_slice(cell);
            put_u16(self.page, HEADER + 2 * index, at);
        }
        put_u16(self.page, 4, at);
        put_u16(self.page, 6, 0);
        Ok(())
    }
}

/// Copies of all cells, in order.
pub fn cells_of(node: Node<'_>) -> Result<Vec<Vec<u8>>> {
    (0..node.len()).map(|index| Ok(node.cell(index)?.bytes.to_vec())).collect()
}

#[cfg(test)]
mod tests;
