//! The transport over a real device: the only file of the data wing that moves blocks.
//!
//! Guarantees what `contract::Transport` says: a request starts when the method is called and
//! goes on when its future is dropped. Does not retry, verify or make anything stable. Built by
//! `object` and tests, called through the trait by the rest of this room.

use std::future::Future;

use foliant_device::Buffer;
use foliant_device::Device;
use foliant_device::Persist;
use foliant_device::Segment;

use crate::error::Error;
use crate::error::Result;
use crate::iomap::contract::Transport;
use crate::units::BlockNo;

/// Reads from and writes to a [`Device`].
#[derive(Debug, Clone)]
pub struct DeviceTransport {
    device: Device,
}

impl DeviceTransport {
    /// A transport over `device`.
    pub fn new(device: Device) -> Self {
        Self { device }
    }
}

impl Transport for DeviceTransport {
    fn read(
        &self,
        at: BlockNo,
        into: Vec<Buffer>,
    ) -> impl Future<Output = (Vec<Buffer>, Result<()>)> + Send + 'static {
        let request = self.device.read(at.0, into);
        async move {
            let (buffers, result) = request.await;
            (buffers, result.map_err(Error::from))
        }
    }

    fn write(
        &self,
        at: BlockNo,
        from: Vec<Segment>,
    ) -> impl Future<Output = Result<()>> + Send + 'static {
        let request = self.device.write(at.0, from, Persist::Cached);
        async move { request.await.map_err(Error::from) }
    }
}
