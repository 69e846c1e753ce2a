//! What the kernel asks, taken apart, handed to the runtime, and answered.
//!
//! # What was agreed with the kernel
//!
//! | | why |
//! |---|---|
//! | no writeback cache | a write is refused when it is made, not when it is written back; size and times have one owner |
//! | ASYNC_DIO, PARALLEL_DIROPS | requests are independent here |
//! | DO_READDIRPLUS, READDIRPLUS_AUTO | an entry is its inode: its attributes cost nothing |
//! | CACHE_SYMLINKS, keep cache, an hour's TTL | nothing changes but through this kernel |
//! | HANDLE_KILLPRIV_V2 | without it each write asks for `security.capability` first. What is taken away by that the kernel is told, see `times` |
//! | BIG_WRITES, MAX_PAGES (the crate's) | requests of up to 1 MiB |
//! | no PARALLEL_DIRECT_WRITES | it is for files that are past the page cache for good, and so would disagree with maps |
//! | no POSIX_LOCKS, no FLOCK_LOCKS | the kernel's own are enough for one mount |
//! | no POSIX_ACL | not kept |
//! | no EXPORT_SUPPORT | an inode cannot be found by its number alone |
//!
//! What the crate does not carry: TMPFILE (`O_TMPFILE` is EOPNOTSUPP), SYNCFS (`syncfs` does not come here),
//! STATX (no birth time). The defaults of its trait answer ENOSYS: ACCESS (the kernel checks permissions), FLUSH
//! (nothing waits for a close), BMAP, IOCTL, POLL, COPY_FILE_RANGE (the kernel copies).
//!
//! Guarantees an answer to each request. Called by the crate's session threads.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::BsdFileFlags;
use fuser::Errno;
use fuser::FileAttr;
use fuser::FileHandle;
use fuser::Filesystem;
use fuser::FopenFlags;
use fuser::INodeNo;
use fuser::InitFlags;
use fuser::KernelConfig;
use fuser::LockOwner;
use fuser::OpenFlags;
use fuser::RenameFlags;
use fuser::ReplyAttr;
use fuser::ReplyCreate;
use fuser::ReplyData;
use fuser::ReplyDirectory;
use fuser::ReplyDirectoryPlus;
use fuser::ReplyEmpty;
use fuser::ReplyEntry;
use fuser::ReplyLseek;
use fuser::ReplyOpen;
use fuser::ReplyStatfs;
use fuser::ReplyWrite;
use fuser::ReplyXattr;
use fuser::Request;
use fuser::TimeOrNow;
use fuser::WriteFlags;

use crate::fuse::answer;
use crate::fuse::attributes::Wanted;
use crate::fuse::data;
use crate::fuse::desk::Desk;
use crate::fuse::fault::Fault;
use crate::fuse::fault::Outcome;
use crate::fuse::fs::BLOCK;
use crate::fuse::fs::Fs;
use crate::fuse::fs::Held;
use crate::fuse::handles::Handles;
use crate::fuse::limits::BACKGROUND_MAX;
use crate::fuse::limits::NAME_BYTES_MAX;
use crate::fuse::limits::READ_AHEAD_BYTES_MAX;
use crate::fuse::limits::TARGET_BYTES_MAX;
use crate::fuse::limits::TTL;
use crate::fuse::limits::WRITE_BYTES_MAX;
use crate::fuse::make::New;
use crate::fuse::record::Kind;
use crate::fuse::rename::Ask;
use crate::fuse::time::Time;

/// The file system as the kernel's partner.
#[derive(Debug)]
pub struct Server {
    fs: Fs,
    handles: Arc<Handles>,
    desk: Desk,
}

impl Server {
    /// Serves `fs`, with tasks on the runtime of the desk.
    pub fn new(fs: Fs, desk: Desk) -> Self {
        Self { fs, handles: Arc::default(), desk }
    }

    fn make(&self, parent: INodeNo, name: &OsStr, new: New, reply: ReplyEntry) {
        let (fs, name) = (self.fs.clone(), name.as_bytes().to_vec());
        self.desk.hand(async move {
            let made = async {
                let held = fs.make(parent.0, &name, &new).await?;
                told(&fs, &held).await
            };
            answer::entry(reply, made.await);
        });
    }
}

/// The attributes of an inode that the kernel holds from now on.
async fn told(fs: &Fs, held: &Held) -> Outcome<FileAttr> {
    let attr = fs.attr(&held.node).await?;
    held.give();
    Ok(attr)
}

impl Filesystem for Server {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_HANDLE_KILLPRIV_V2;
        // What an older kernel does not know, it does without: all of these are about speed.
        let known = wanted & config.capabilities();
        let refused = config.add_capabilities(known).err();
        assert!(refused.is_none(), "only what the kernel offers is asked for");
        // The nearest value that is possible is as good.
        let _ = config.set_max_write(WRITE_BYTES_MAX);
        if let Err(most) = config.set_max_readahead(READ_AHEAD_BYTES_MAX) {
            let _ = config.set_max_readahead(most);
        }
        let _ = config.set_max_background(BACKGROUND_MAX);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (fs, name) = (self.fs.clone(), name.as_bytes().to_vec());
        self.desk.hand(async move {
            let found = async {
                if name.len() > NAME_BYTES_MAX {
                    return Err(Fault(Errno::ENAMETOOLONG));
                }
                let (_, held) = fs.find(parent.0, &name).await?;
                told(&fs, &held).await
            };
            answer::entry(reply, found.await);
        });
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        let _entered = self.desk.enter();
        self.fs.forget(ino.0, nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let fs = self.fs.clone();
        self.desk.hand(async move {
            let found = async {
                let node = fs.nodes.get(ino.0)?;
                fs.attr(&node).await
            };
            answer::attr(reply, found.await);
        });
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let wanted = Wanted {
            mode,
            uid,
            gid,
            size,
            atime: atime.map(answer::point),
            mtime: mtime.map(answer::point),
            ctime: ctime.map(Time::of_kernel),
            kills: req.uid() != 0,
        };
        let fs = self.fs.clone();
        self.desk.hand(async move {
            let set = async {
                let node = fs.nodes.get(ino.0)?;
                fs.set(&node, &wanted).await?;
                fs.attr(&node).await
            };
            answer::attr(reply, set.await);
        });
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        let fs = self.fs.clone();
        self.desk.hand(async move {
            let read = async {
                let node = fs.nodes.get(ino.0)?;
                Ok(node.object.read(0..TARGET_BYTES_MAX as u64).await?)
            };
            answer::data(reply, read.await);
        });
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let Some(kind) = answer::kind_of(mode) else { return reply.error(Errno::EINVAL) };
        let (uid, gid) = (req.uid(), req.gid());
        self.make(parent, name, New { kind, mode, uid, gid, rdev, target: vec![] }, reply);
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let (uid, gid, kind) = (req.uid(), req.gid(), Kind::Directory);
        self.make(parent, name, New { kind, mode, uid, gid, rdev: 0, target: vec![] }, reply);
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, name) = (self.fs.clone(), name.as_bytes().to_vec());
        self.desk
            .hand(async move { answer::empty(reply, fs.remove(parent.0, &name, false).await) });
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, name) = (self.fs.clone(), name.as_bytes().to_vec());
        self.desk.hand(async move { answer::empty(reply, fs.remove(parent.0, &name, true).await) });
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        link_name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let target = target.as_os_str().as_bytes().to_vec();
        let (uid, gid, kind) = (req.uid(), req.gid(), Kind::Symlink);
        self.make(parent, link_name, New { kind, mode: 0o777, uid, gid, rdev: 0, target }, reply);
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (fs, by) = (self.fs.clone(), (req.uid(), req.gid()));
        let (name, new_name) = (name.as_bytes().to_vec(), newname.as_bytes().to_vec());
        self.desk.hand(async move {
            let (name, new_name) = (&name[..], &new_name[..]);
            let ask = Ask { from: parent.0, name, to: newparent.0, new_name, flags, by };
            answer::empty(reply, fs.rename(ask).await);
        });
    }

    fn link(
        &self,
        _req: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let (fs, name) = (self.fs.clone(), newname.as_bytes().to_vec());
        self.desk.hand(async move {
            let linked = async {
                let held = fs.link(ino.0, newparent.0, &name).await?;
                told(&fs, &held).await
            };
            answer::entry(reply, linked.await);
        });
    }

    fn open(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let (fs, handles) = (self.fs.clone(), self.handles.clone());
        self.desk.hand(async move {
            let opened = async { handles.open(fs.nodes.get(ino.0)?).await };
            match opened.await {
                Ok(number) => reply.opened(FileHandle(number), FopenFlags::FOPEN_KEEP_CACHE),
                Err(Fault(errno)) => reply.error(errno),
            }
        });
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let (fs, handles, name) = (self.fs.clone(), self.handles.clone(), name.as_bytes().to_vec());
        let (uid, gid, kind) = (req.uid(), req.gid(), Kind::File);
        let new = New { kind, mode, uid, gid, rdev: 0, target: vec![] };
        self.desk.hand(async move {
            let made = async {
                let held = fs.make(parent.0, &name, &new).await?;
                let number = handles.open(held.node.clone()).await?;
                Ok((told(&fs, &held).await?, FileHandle(number)))
            };
            match made.await {
                Ok((attr, fh)) => {
                    reply.created(&TTL, &attr, answer::NONE, fh, FopenFlags::FOPEN_KEEP_CACHE);
                }
                Err(Fault(errno)) => reply.error(errno),
            }
        });
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let handles = self.handles.clone();
        self.desk.hand(async move {
            let read = async { handles.get(fh.0)?.read(offset, size).await };
            answer::data(reply, read.await);
        });
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (fs, handles, bytes) = (self.fs.clone(), self.handles.clone(), data.to_vec());
        let kills = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        self.desk.hand(async move {
            let written = async {
                let handle = handles.get(fh.0)?;
                fs.write(&handle, offset, &bytes, kills).await
            };
            match written.await {
                Ok(()) => reply.written(bytes.len() as u32),
                Err(Fault(errno)) => reply.error(errno),
            }
        });
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let (fs, handles) = (self.fs.clone(), self.handles.clone());
        self.desk.hand(async move { answer::empty(reply, handles.close(&fs, fh.0).await) });
    }

    fn fsync(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        let fs = self.fs.clone();
        self.desk.hand(async move {
            let synced = async {
                let node = fs.nodes.get(ino.0)?;
                fs.sync(&node, datasync).await
            };
            answer::empty(reply, synced.await);
        });
    }

    fn readdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let fs = self.fs.clone();
        self.desk.hand(async move {
            let listed = async {
                let node = fs.directory(ino.0)?;
                fs.list(&node, offset, &mut reply).await
            };
            match listed.await {
                Ok(()) => reply.ok(),
                Err(Fault(errno)) => reply.error(errno),
            }
        });
    }

    fn readdirplus(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let fs = self.fs.clone();
        self.desk.hand(async move {
            let listed = async {
                let node = fs.directory(ino.0)?;
                fs.list_plus(&node, offset, &mut reply).await
            };
            match listed.await {
                Ok(()) => reply.ok(),
                Err(Fault(errno)) => reply.error(errno),
            }
        });
    }

    fn fsyncdir(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.fsync(req, ino, fh, datasync, reply);
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let stats = self.fs.store.engine.stats();
        let block = u64::from(BLOCK);
        let blocks = stats.capacity_bytes / block;
        let free = stats.free_bytes / block;
        // An inode takes no room of its own kind: as many as there are blocks.
        reply.statfs(blocks, free, free, blocks, free, BLOCK, NAME_BYTES_MAX as u32, BLOCK);
    }

    fn setxattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (fs, name, value) = (self.fs.clone(), name.as_bytes().to_vec(), value.to_vec());
        self.desk.hand(async move {
            let set = async {
                let node = fs.nodes.get(ino.0)?;
                fs.set_xattr(&node, &name, &value, flags).await
            };
            answer::empty(reply, set.await);
        });
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let (fs, name) = (self.fs.clone(), name.as_bytes().to_vec());
        self.desk.hand(async move {
            let found = async {
                let node = fs.nodes.get(ino.0)?;
                fs.xattr(&node, &name).await
            };
            answer::value(reply, size, found.await);
        });
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let fs = self.fs.clone();
        self.desk.hand(async move {
            let found = async {
                let node = fs.nodes.get(ino.0)?;
                fs.xattr_names(&node).await
            };
            answer::value(reply, size, found.await);
        });
    }

    fn removexattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, name) = (self.fs.clone(), name.as_bytes().to_vec());
        self.desk.hand(async move {
            let removed = async {
                let node = fs.nodes.get(ino.0)?;
                fs.remove_xattr(&node, &name).await
            };
            answer::empty(reply, removed.await);
        });
    }

    fn fallocate(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let (fs, handles, kills) = (self.fs.clone(), self.handles.clone(), req.uid() != 0);
        self.desk.hand(async move {
            let allocated = async {
                let handle = handles.get(fh.0)?;
                fs.allocate(&handle, data::range(offset, length)?, mode, kills).await
            };
            answer::empty(reply, allocated.await);
        });
    }

    fn lseek(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let handles = self.handles.clone();
        self.desk.hand(async move {
            let found = async { handles.get(fh.0)?.seek(offset, whence).await };
            match found.await {
                Ok(offset) => reply.offset(offset),
                Err(Fault(errno)) => reply.error(errno),
            }
        });
    }
}
