//! The kernel's page cache: `pread` and `pwrite` on a regular file, as most programs do it.
//!
//! It is the line for cached reads. Its memory is the kernel's and is not bounded by `--memory`,
//! so for anything else than cached reads run it in a memory cgroup. Calls block their worker, as
//! they would in a threaded program; commits and syncs go to the blocking pool, because they
//! sleep. A commit is `pwrite` and `fdatasync`. The device below is not counted.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;

use crate::target::Counters;
use crate::target::Place;
use crate::target::Recovery;
use crate::target::Target;

/// An open file.
#[derive(Clone)]
pub struct Buffered {
    file: Arc<File>,
    size: u64,
}

impl Buffered {
    async fn blocking<F>(&self, work: F) -> Result<()>
    where
        F: FnOnce(&File) -> std::io::Result<()> + Send + 'static,
    {
        let file = self.file.clone();
        Ok(tokio::task::spawn_blocking(move || work(&file)).await??)
    }
}

impl Target for Buffered {
    const NAME: &'static str = "buffered";
    const CACHES: bool = true;

    async fn make(place: &Place) -> Result<()> {
        ensure!(!place.device, "the buffered target wants a regular file");
        let options = File::options().write(true).create(true).truncate(false).open(&place.path);
        let file = options.context("making the file")?;
        file.set_len(file.metadata()?.len().max(place.size)).context("sizing the file")
    }

    async fn open(place: &Place) -> Result<Self> {
        let file = File::options().read(true).write(true).open(&place.path);
        let file = file.with_context(|| format!("opening {}", place.path.display()))?;
        let size = place.size;
        ensure!(file.metadata()?.len() >= size, "the file is shorter than {size} bytes");
        Ok(Self { file: Arc::new(file), size })
    }

    fn size(&self) -> u64 {
        self.size
    }

    async fn read<F>(&self, offset: u64, scratch: &mut [u8], see: F) -> Result<()>
    where
        F: FnOnce(&[u8]) + Send,
    {
        self.file.read_exact_at(scratch, offset)?;
        see(scratch);
        Ok(())
    }

    async fn write<F>(&self, offset: u64, scratch: &mut [u8], fill: F) -> Result<()>
    where
        F: FnOnce(&mut [u8]) + Send,
    {
        fill(scratch);
        Ok(self.file.write_all_at(scratch, offset)?)
    }

    async fn commit<F>(&self, offset: u64, scratch: &mut [u8], fill: F) -> Result<()>
    where
        F: FnOnce(&mut [u8]) + Send,
    {
        self.write(offset, scratch, fill).await?;
        self.sync().await
    }

    async fn sync(&self) -> Result<()> {
        self.blocking(File::sync_data).await
    }

    fn counters(&self) -> Counters {
        Counters::default()
    }

    fn backend(&self) -> String {
        "page cache (pread and pwrite)".to_owned()
    }

    fn recovery(&self) -> Option<Recovery> {
        None
    }

    async fn close(self) -> Result<()> {
        Ok(())
    }
}
