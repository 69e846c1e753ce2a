//! What POSIX and Linux say of a file system, asked through a real mount: names, links, renames, permissions,
//! times, extended attributes, holes, directories that change while they are read, memory maps.
#![allow(clippy::unwrap_used)] // In a test, a failed unwrap is the failed test.

mod support;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Read;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;
use std::time::SystemTime;

use rustix::fs::CWD;
use rustix::fs::FallocateFlags;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::RenameFlags;
use rustix::fs::SeekFrom;
use rustix::fs::XattrFlags;
use rustix::io::Errno;
use support::fuse::Ground;
use support::fuse::comes_back;
use support::fuse::errno;
use support::fuse::run;
use support::process::is_there;
use tokio::process::Command;

fn code(errno: Errno) -> i32 {
    errno.raw_os_error()
}

fn rename_as(from: &Path, to: &Path, flags: RenameFlags) -> io::Result<()> {
    Ok(rustix::fs::renameat_with(CWD, from, CWD, to, flags)?)
}

fn names(at: &Path) -> BTreeSet<String> {
    let names = fs::read_dir(at).unwrap().map(|entry| entry.unwrap().file_name());
    names.map(|name| name.into_string().unwrap()).collect()
}

fn nlink(at: &Path) -> u64 {
    fs::symlink_metadata(at).unwrap().nlink()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_links_and_renames() {
    let Some(ground) = Ground::new("names") else { return };
    let mounted = ground.mount().await;
    any_name(&mounted.at);
    hard_links(&mounted.path("links"));
    renames(&mounted.path("renames"));
    exchanges(&mounted.path("exchanges"));
    special(&mounted.path("special"));
    mounted.unmount().await;
    ground.is_sound().await;
}

fn any_name(at: &Path) {
    let all: Vec<u8> = (1..=255).filter(|byte| *byte != b'/').collect();
    for name in [&all[..], b"\n", b"-", &[0xFF; 255], "grüße".as_bytes()] {
        let path = at.join(OsStr::from_bytes(name));
        fs::write(&path, name).unwrap();
        assert_eq!(fs::read(&path).unwrap(), name);
        let listed = fs::read_dir(at).unwrap().map(|entry| entry.unwrap().file_name());
        assert!(listed.into_iter().any(|found| found.as_bytes() == name));
        fs::remove_file(&path).unwrap();
        assert_eq!(errno(fs::read(&path)), code(Errno::NOENT));
    }
    let long = at.join("n".repeat(256));
    assert_eq!(errno(File::create(&long)), code(Errno::NAMETOOLONG));
    assert_eq!(errno(fs::metadata(&long)), code(Errno::NAMETOOLONG));
    assert_eq!(errno(fs::create_dir(&long)), code(Errno::NAMETOOLONG));
    fs::write(at.join("once"), b"").unwrap();
    assert_eq!(errno(File::create_new(at.join("once"))), code(Errno::EXIST));
    assert_eq!(errno(fs::create_dir(at.join("once"))), code(Errno::EXIST));
    assert_eq!(errno(fs::read_dir(at.join("once"))), code(Errno::NOTDIR));
    assert_eq!(errno(fs::remove_dir(at.join("once"))), code(Errno::NOTDIR));
}

fn hard_links(at: &Path) {
    fs::create_dir_all(at.join("below")).unwrap();
    let path = |name: &str| at.join(name);
    fs::write(path("a"), b"linked").unwrap();
    let ino = fs::metadata(path("a")).unwrap().ino();
    fs::hard_link(path("a"), path("below/b")).unwrap();
    fs::hard_link(path("below/b"), path("c")).unwrap();
    for name in ["a", "below/b", "c"] {
        let found = fs::metadata(path(name)).unwrap();
        assert_eq!((found.nlink(), found.ino()), (3, ino), "{name}");
    }
    fs::write(path("c"), b"changed").unwrap();
    assert_eq!(fs::read(path("a")).unwrap(), b"changed");
    // Two names of one inode: nothing happens.
    fs::rename(path("a"), path("c")).unwrap();
    assert_eq!(nlink(&path("a")), 3);
    fs::rename(path("below/b"), path("d")).unwrap();
    fs::remove_file(path("a")).unwrap();
    assert_eq!((nlink(&path("d")), fs::read(path("d")).unwrap()), (2, b"changed".to_vec()));
    fs::write(path("e"), b"replaces").unwrap();
    fs::rename(path("e"), path("c")).unwrap();
    assert_eq!((nlink(&path("d")), nlink(&path("c"))), (1, 1));
    fs::hard_link(path("d"), path("again")).unwrap();
    assert_eq!(nlink(&path("d")), 2);
    fs::remove_file(path("d")).unwrap();
    fs::remove_file(path("again")).unwrap();
    assert_eq!(errno(fs::hard_link(path("below"), path("f"))), code(Errno::PERM));
    assert_eq!(errno(fs::hard_link(path("c"), path("below"))), code(Errno::EXIST));
    assert_eq!(names(at), ["below", "c"].map(String::from).into());
}

fn renames(at: &Path) {
    let path = |name: &str| at.join(name);
    fs::create_dir_all(path("d/e/f")).unwrap();
    fs::write(path("a"), b"a").unwrap();
    fs::write(path("b"), b"b").unwrap();
    let refused = rename_as(&path("a"), &path("b"), RenameFlags::NOREPLACE);
    assert_eq!(errno(refused), code(Errno::EXIST));
    rename_as(&path("a"), &path("c"), RenameFlags::NOREPLACE).unwrap();
    fs::rename(path("c"), path("b")).unwrap();
    assert_eq!(fs::read(path("b")).unwrap(), b"a");
    assert_eq!(errno(fs::rename(path("b"), path("d"))), code(Errno::ISDIR));
    assert_eq!(errno(fs::rename(path("d"), path("b"))), code(Errno::NOTDIR));
    assert_eq!(errno(fs::rename(path("d"), path("d/e/f/g"))), code(Errno::INVAL));
    assert_eq!(errno(fs::rename(path("none"), path("b"))), code(Errno::NOENT));
    fs::create_dir_all(path("x/y")).unwrap();
    assert_eq!(errno(fs::rename(path("d"), path("x"))), code(Errno::NOTEMPTY));
    assert_eq!(errno(fs::remove_dir(path("d"))), code(Errno::NOTEMPTY));
    fs::rename(path("d"), path("x/y")).unwrap();
    assert!(path("x/y/e/f").is_dir() && !path("d").exists());
    assert_eq!((nlink(&path("x")), nlink(&path("x/y")), nlink(at)), (3, 3, 3));
    fs::rename(path("x/y/e"), path("e")).unwrap();
    assert_eq!((nlink(&path("x/y")), nlink(at)), (2, 4));
    // The new name is there as long as the renames go on.
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..300 {
                fs::write(path("new"), round.to_string()).unwrap();
                fs::rename(path("new"), path("b")).unwrap();
            }
            stop.store(true, std::sync::atomic::Ordering::SeqCst);
        });
        while !stop.load(std::sync::atomic::Ordering::SeqCst) {
            assert!(!fs::read(path("b")).unwrap().is_empty());
        }
    });
    rename_as(&path("b"), &path("moved"), RenameFlags::WHITEOUT).unwrap();
    let whiteout = fs::metadata(path("b")).unwrap();
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
    assert_eq!(fs::read(path("moved")).unwrap(), b"299");
}

fn exchanges(at: &Path) {
    let path = |name: &str| at.join(name);
    let exchange = |a: &str, b: &str| rename_as(&path(a), &path(b), RenameFlags::EXCHANGE);
    fs::create_dir_all(path("d/in")).unwrap();
    fs::write(path("a"), b"a").unwrap();
    fs::write(path("d/b"), b"b").unwrap();
    fs::hard_link(path("a"), path("link")).unwrap();
    exchange("a", "d/b").unwrap();
    assert_eq!(
        (fs::read(path("a")).unwrap(), fs::read(path("d/b")).unwrap()),
        (b"b".into(), b"a".into())
    );
    assert_eq!((nlink(&path("d/b")), nlink(&path("a"))), (2, 1));
    exchange("a", "d/in").unwrap();
    assert!(path("a").is_dir() && path("d/in").is_file());
    assert_eq!((nlink(at), nlink(&path("d"))), (4, 2));
    assert_eq!(errno(exchange("a", "none")), code(Errno::NOENT));
    fs::create_dir(path("d/deep")).unwrap();
    assert_eq!(errno(exchange("d", "d/deep")), code(Errno::INVAL));
    exchange("a", "d").unwrap();
    assert!(path("a/deep").is_dir() && names(&path("d")).is_empty());
    // Both are found by their new names when nothing is cached.
    fs::remove_file(path("a/in")).unwrap();
    fs::remove_file(path("a/b")).unwrap();
    assert_eq!(nlink(&path("link")), 1);
}

fn special(at: &Path) {
    fs::create_dir(at).unwrap();
    let target = "t".repeat(4000);
    for (name, target) in [("short", "a/b"), ("long", &target[..])] {
        symlink(target, at.join(name)).unwrap();
        assert_eq!(fs::read_link(at.join(name)).unwrap().as_os_str(), target);
        assert_eq!(fs::symlink_metadata(at.join(name)).unwrap().len(), target.len() as u64);
    }
    for (kind, name) in
        [(FileType::Fifo, "fifo"), (FileType::Socket, "socket"), (FileType::CharacterDevice, "dev")]
    {
        let device = rustix::fs::makedev(5, 300);
        let at = at.join(name);
        rustix::fs::mknodat(CWD, &at, kind, Mode::from(0o640), device).unwrap();
        let found = fs::metadata(&at).unwrap();
        assert_eq!(found.mode() & 0o777, 0o640);
        assert_eq!(FileType::from_raw_mode(found.mode()), kind);
        let is_device = kind == FileType::CharacterDevice;
        assert_eq!(found.rdev(), if is_device { device } else { 0 }, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stat_says_is_true_and_stays() {
    let Some(ground) = Ground::new("stat") else { return };
    let mounted = ground.mount().await;
    times(&mounted.at);
    permissions(&mounted.at).await;
    xattrs(&mounted.path("xattrs"));
    let before = picture(&mounted.at);
    mounted.unmount().await;
    ground.is_sound().await;
    let mounted = ground.mount().await;
    assert_eq!(picture(&mounted.at), before, "after another mount");
    mounted.terminate().await;
    ground.is_sound().await;
}

/// All that can be seen of a tree.
fn picture(at: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut entries: Vec<_> = fs::read_dir(at).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let m = fs::symlink_metadata(&path).unwrap();
        let content = if m.is_file() { fs::read(&path).unwrap() } else { vec![] };
        let mut list = [0_u8; 4096];
        let len = rustix::fs::llistxattr(&path, &mut list[..]).unwrap();
        let who = (m.ino(), m.mode(), m.uid(), m.gid(), m.nlink(), m.size(), m.blocks());
        let when =
            (m.atime(), m.atime_nsec(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec());
        lines.push(format!("{path:?} {who:?} {when:?} {content:?} {:?}", &list[..len]));
        if m.is_dir() {
            lines.extend(picture(&path));
        }
    }
    lines
}

fn times(at: &Path) {
    let path = at.join("times");
    let file = File::create(&path).unwrap();
    let old = SystemTime::UNIX_EPOCH - Duration::new(5, 7);
    let times = fs::FileTimes::new().set_accessed(old).set_modified(old);
    file.set_times(times).unwrap();
    let m = fs::metadata(&path).unwrap();
    assert_eq!((m.accessed().unwrap(), m.modified().unwrap()), (old, old));
    let mut last = old;
    for round in 0..20 {
        file.write_at(b"x", round).unwrap();
        let now = fs::metadata(&path).unwrap().modified().unwrap();
        assert!(now > last, "a write has another time than the one that was seen");
        last = now;
    }
    let directory = at.join("directory");
    fs::create_dir(&directory).unwrap();
    let made = fs::metadata(&directory).unwrap().modified().unwrap();
    fs::write(directory.join("a"), b"").unwrap();
    let grown = fs::metadata(&directory).unwrap().modified().unwrap();
    fs::remove_file(directory.join("a")).unwrap();
    assert!(made < grown && grown < fs::metadata(&directory).unwrap().modified().unwrap());
    let before = fs::metadata(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let after = fs::metadata(&path).unwrap();
    assert_eq!(before.modified().unwrap(), after.modified().unwrap());
    assert!((before.ctime(), before.ctime_nsec()) < (after.ctime(), after.ctime_nsec()));
}

async fn permissions(at: &Path) {
    let nobody = |program: &str, words: &[&str]| {
        let mut command = Command::new(program);
        command.args(words).current_dir(at).uid(65_534).gid(65_534);
        command
    };
    let path = |name: &str| at.join(name);
    fs::write(path("mine"), b"secret").unwrap();
    fs::set_permissions(path("mine"), fs::Permissions::from_mode(0o600)).unwrap();
    assert!(!nobody("cat", &["mine"]).output().await.unwrap().status.success());
    assert!(!nobody("rm", &["-f", "mine"]).output().await.unwrap().status.success());
    fs::set_permissions(path("mine"), fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(run(&mut nobody("cat", &["mine"])).await, "secret");
    fs::create_dir(path("open")).unwrap();
    fs::set_permissions(path("open"), fs::Permissions::from_mode(0o2777)).unwrap();
    rustix::fs::chown(path("open"), None, Some(rustix::fs::Gid::from_raw(7))).unwrap();
    run(&mut nobody("sh", &["-c", "echo x > open/theirs && mkdir open/sub"])).await;
    let theirs = fs::metadata(path("open/theirs")).unwrap();
    assert_eq!((theirs.uid(), theirs.gid()), (65_534, 7), "the group of the directory");
    assert_eq!(fs::metadata(path("open/sub")).unwrap().mode() & 0o2000, 0o2000);
    // Who writes to a program that runs as somebody else takes that away.
    let set_id = |name: &str| {
        fs::write(path(name), b"program").unwrap();
        fs::set_permissions(path(name), fs::Permissions::from_mode(0o6777)).unwrap();
    };
    let mode = |name: &str| fs::metadata(path(name)).unwrap().mode() & 0o7777;
    set_id("open/setid");
    assert_eq!(mode("open/setid"), 0o6777);
    run(&mut nobody("sh", &["-c", "echo more >> open/setid"])).await;
    assert_eq!(mode("open/setid"), 0o777);
    set_id("open/cut");
    run(&mut nobody("truncate", &["-s", "2", "open/cut"])).await;
    assert_eq!(mode("open/cut"), 0o777);
    set_id("open/owned");
    rustix::fs::chown(path("open/owned"), Some(rustix::fs::Uid::from_raw(1)), None).unwrap();
    assert_eq!(mode("open/owned"), 0o777);
}

fn xattrs(at: &Path) {
    fs::write(at, b"").unwrap();
    let set = |name: &str, value: &[u8], flags| -> io::Result<()> {
        Ok(rustix::fs::setxattr(at, name, value, flags)?)
    };
    let get = |name: &str| -> io::Result<Vec<u8>> {
        let mut value = vec![0; 64 << 10];
        let len = rustix::fs::getxattr(at, name, &mut value[..])?;
        value.truncate(len);
        Ok(value)
    };
    assert_eq!(errno(get("user.none")), code(Errno::NODATA));
    set("user.a", b"1", XattrFlags::empty()).unwrap();
    assert_eq!(errno(set("user.a", b"2", XattrFlags::CREATE)), code(Errno::EXIST));
    assert_eq!(errno(set("user.b", b"2", XattrFlags::REPLACE)), code(Errno::NODATA));
    set("user.a", b"", XattrFlags::REPLACE).unwrap();
    assert_eq!(get("user.a").unwrap(), b"");
    let large = vec![7; 64 << 10];
    set("user.large", &large, XattrFlags::empty()).unwrap();
    assert_eq!(get("user.large").unwrap(), large);
    assert_eq!(errno(set("user.more", &large, XattrFlags::empty())), code(Errno::NOSPC));
    let too_large = vec![7; (64 << 10) + 1];
    assert_eq!(errno(set("user.b", &too_large, XattrFlags::empty())), code(Errno::TOOBIG));
    let mut small = [0_u8; 4];
    let short = rustix::fs::getxattr(at, "user.large", &mut small[..]);
    assert_eq!(short.unwrap_err(), Errno::RANGE);
    set("trusted.t", b"t", XattrFlags::empty()).unwrap();
    let acl = errno(set("system.posix_acl_access", &[2, 0, 0, 0], XattrFlags::empty()));
    assert!([code(Errno::OPNOTSUPP), code(Errno::INVAL)].contains(&acl));
    rustix::fs::removexattr(at, "user.large").unwrap();
    assert_eq!(rustix::fs::removexattr(at, "user.large").unwrap_err(), Errno::NODATA);
    let mut list = [0_u8; 100];
    let len = rustix::fs::listxattr(at, &mut list[..]).unwrap();
    assert_eq!(&list[..len], b"trusted.t\0user.a\0");
    // They go with the file, and a link shows the same.
    let other = at.with_extension("other");
    fs::hard_link(at, &other).unwrap();
    rustix::fs::setxattr(&other, "user.c", b"c", XattrFlags::empty()).unwrap();
    fs::remove_file(at).unwrap();
    fs::rename(&other, at).unwrap();
    assert_eq!(get("user.c").unwrap(), b"c");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_holes_and_open_files() {
    let Some(ground) = Ground::new("bytes") else { return };
    let mounted = ground.mount().await;
    holes(&mounted.at);
    unlinked_while_open(&mounted.at);
    beyond_limits(&mounted.at);
    let stat = rustix::fs::statvfs(&mounted.at).unwrap();
    let total = stat.f_blocks * stat.f_frsize;
    assert!(total > 200 << 20 && total <= 256 << 20, "{total}");
    assert!(stat.f_bavail <= stat.f_bfree && stat.f_bfree <= stat.f_blocks);
    assert_eq!(stat.f_namemax, 255);
    let free = stat.f_bfree;
    let ballast = File::create(mounted.path("ballast")).unwrap();
    rustix::fs::fallocate(&ballast, FallocateFlags::empty(), 0, 32 << 20).unwrap();
    let less = rustix::fs::statvfs(&mounted.at).unwrap().f_bfree;
    assert!(less + (28 << 20) / 4096 < free, "{free} and then {less}");
    drop(ballast);
    fs::remove_file(mounted.path("ballast")).unwrap();
    // Behind the reply, and what is freed waits for the log.
    comes_back(&mounted.at, less + (28 << 20) / 4096).await;
    mounted.unmount().await;
    ground.is_sound().await;
}

fn holes(at: &Path) {
    let path = at.join("sparse");
    let file = OpenOptions::new().create(true).read(true).write(true).truncate(true).open(&path);
    let file = file.unwrap();
    let (mib, block) = (1_u64 << 20, 4096);
    file.write_all_at(&[1; 8192], 10 * mib).unwrap();
    file.set_len(20 * mib).unwrap();
    let m = file.metadata().unwrap();
    assert_eq!((m.len(), m.blocks()), (20 * mib, 16));
    let seek = |to| rustix::fs::seek(&file, to);
    assert_eq!(seek(SeekFrom::Data(0)), Ok(10 * mib));
    assert_eq!(seek(SeekFrom::Hole(10 * mib + 5)), Ok(10 * mib + 8192));
    assert_eq!(seek(SeekFrom::Data(11 * mib)), Err(Errno::NXIO));
    assert_eq!(seek(SeekFrom::Hole(11 * mib)), Ok(11 * mib));
    assert_eq!(seek(SeekFrom::Hole(20 * mib)), Err(Errno::NXIO));
    let mut bytes = [9; 16];
    file.read_exact_at(&mut bytes, 10 * mib - 8).unwrap();
    assert_eq!(bytes, [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1]);
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, punch, 10 * mib, block).unwrap();
    assert_eq!(seek(SeekFrom::Data(0)), Ok(10 * mib + block));
    let zero = FallocateFlags::ZERO_RANGE;
    rustix::fs::fallocate(&file, zero, 10 * mib + block + 1, block - 2).unwrap();
    let mut found = vec![9; 8192];
    file.read_exact_at(&mut found, 10 * mib).unwrap();
    let mut expected = vec![0; 8192];
    (expected[4096], expected[8191]) = (1, 1);
    assert!(found == expected);
    // A zeroed range may make the file longer; with KEEP_SIZE it may not.
    rustix::fs::fallocate(&file, zero | FallocateFlags::KEEP_SIZE, 20 * mib, mib).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 20 * mib);
    rustix::fs::fallocate(&file, zero, 20 * mib, mib).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 21 * mib);
    rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 30 * mib, mib).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 21 * mib);
    assert!(file.metadata().unwrap().blocks() >= 2 * mib / 512);
    let insert = rustix::fs::fallocate(&file, FallocateFlags::INSERT_RANGE, 0, block);
    assert_eq!(insert.unwrap_err(), Errno::OPNOTSUPP);
    file.set_len(5).unwrap();
    file.set_len(10 * mib + 8192).unwrap();
    assert_eq!((seek(SeekFrom::Data(0)), file.metadata().unwrap().blocks()), (Err(Errno::NXIO), 0));
}

fn unlinked_while_open(at: &Path) {
    let path = at.join("open");
    let mut options = OpenOptions::new();
    let file = options.create_new(true).read(true).write(true).open(&path).unwrap();
    file.write_all_at(b"still here", 0).unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!((file.metadata().unwrap().nlink(), path.exists()), (0, false));
    let mut found = [0; 10];
    file.read_exact_at(&mut found, 0).unwrap();
    assert_eq!(&found, b"still here");
    file.write_all_at(&[3; 100_000], 50).unwrap();
    file.set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
    file.sync_all().unwrap();
    assert_eq!(file.metadata().unwrap().len(), 100_050);
    // The name is free for another, also by a rename over it, and the open one is none of that.
    fs::write(&path, b"new").unwrap();
    let second = File::open(&path).unwrap();
    fs::write(at.join("third"), b"third").unwrap();
    fs::rename(at.join("third"), &path).unwrap();
    let mut content = String::new();
    (&second).read_to_string(&mut content).unwrap();
    assert_eq!((content.as_str(), second.metadata().unwrap().nlink()), ("new", 0));
    assert_eq!(fs::read(&path).unwrap(), b"third");
    // A directory that was removed takes nothing any more.
    let directory = at.join("removed");
    fs::create_dir(&directory).unwrap();
    let held = File::open(&directory).unwrap();
    fs::remove_dir(&directory).unwrap();
    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::RDWR;
    let made = rustix::fs::openat(&held, "a", flags, Mode::from(0o600));
    assert_eq!(made.unwrap_err(), Errno::NOENT);
}

fn beyond_limits(at: &Path) {
    let path = at.join("limits");
    let file = File::create(&path).unwrap();
    // Linux refuses negative and too large offsets itself; what it lets through must not do harm.
    file.set_len(i64::MAX as u64).unwrap();
    assert_eq!(file.metadata().unwrap().len(), i64::MAX as u64);
    file.write_all_at(b"end", (i64::MAX as u64) - 4096).unwrap();
    let far = rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 1 << 40);
    assert_eq!(far.unwrap_err(), Errno::NOSPC);
    file.set_len(0).unwrap();
    let mut options = OpenOptions::new();
    let flags = rustix::fs::OFlags::TMPFILE.bits() as i32;
    let unnamed = std::os::unix::fs::OpenOptionsExt::custom_flags(options.write(true), flags);
    // The crate does not carry it.
    assert_eq!(errno(unnamed.open(at)), code(Errno::OPNOTSUPP));
}

/// Names come and go while the directory is read; those that stay are met once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_directory_is_read_while_it_changes() {
    let Some(ground) = Ground::new("readdir") else { return };
    let mounted = ground.mount().await;
    let at = mounted.path("many");
    fs::create_dir(&at).unwrap();
    for number in 0..10_000 {
        File::create(at.join(format!("stays-{number}"))).unwrap();
    }
    let mut met = BTreeSet::new();
    for (count, entry) in fs::read_dir(&at).unwrap().enumerate() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(met.insert(name.clone()), "{name} twice");
        if count % 10 == 0 {
            let goes = at.join(format!("goes-{count}"));
            File::create(&goes).unwrap();
            if count % 20 == 0 {
                fs::remove_file(&goes).unwrap();
            }
            fs::rename(at.join("goes-10"), at.join(format!("moved-{count}"))).ok();
        }
    }
    let stays = met.iter().filter(|name| name.starts_with("stays-")).count();
    assert_eq!(stays, 10_000);
    let all = fs::read_dir(&at).unwrap().map(|e| e.unwrap());
    assert!(
        all.take(500).all(|e| e.metadata().unwrap().ino() == e.path().metadata().unwrap().ino())
    );
    fs::remove_dir_all(&at).unwrap();
    mounted.unmount().await;
    assert_eq!(ground.is_sound().await.inodes, 1);
}

/// A map, a descriptor, and a descriptor past the page cache see one file.
const MAPS: &str = r##"
import mmap, os, sys
path = sys.argv[1]
fd = os.open(path, os.O_RDWR | os.O_CREAT)
direct = os.open(path, os.O_RDWR | os.O_DIRECT)
size = 1 << 20
os.ftruncate(fd, size)
m = mmap.mmap(fd, size)
buf = mmap.mmap(-1, 4096)
for i in range(0, size, 65536):
    m[i:i+4] = b"maps"
    assert os.pread(fd, 4, i) == b"maps"
    assert os.preadv(direct, [buf], i) == 4096 and buf[:4] == b"maps", "direct sees the map"
    os.pwrite(fd, b"file", i + 100)
    assert m[i+100:i+104] == b"file", "the map sees the file"
    buf[:] = b"D" * 4096
    assert os.pwritev(direct, [buf], i + 8192) == 4096
    assert m[i+8192:i+8196] == b"DDDD" and os.pread(fd, 4, i + 12284) == b"DDDD"
m.flush()
os.fsync(fd)
os.ftruncate(fd, 65536)
os.ftruncate(fd, size)
assert m[65536:65540] == bytes(4), "cut off is cut off"
m[70000:70004] = b"late"
m.close()
os.close(fd)
os.close(direct)
with open(path, "rb") as f:
    data = f.read()
assert data[:4] == b"maps" and data[70000:70004] == b"late" and len(data) == size
exe = path + ".sh"
with open(exe, "w") as f: f.write("#!/bin/sh\nexit 7\n")
os.chmod(exe, 0o755)
assert os.WEXITSTATUS(os.system(exe)) == 7
"##;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn maps_and_direct_io_agree() {
    let Some(ground) = Ground::new("maps") else { return };
    if !is_there("python3", "python3") {
        return;
    }
    let mounted = ground.mount().await;
    let path = mounted.path("mapped");
    run(Command::new("python3").args(["-c", MAPS]).arg(&path)).await;
    mounted.unmount().await;
    let mounted = ground.mount().await;
    let bytes = fs::read(&path).unwrap();
    assert_eq!((&bytes[..4], &bytes[70_000..70_004]), (&b"maps"[..], &b"late"[..]));
    let mut file = File::options().append(true).open(&path).unwrap();
    file.write_all(b"appended").unwrap();
    assert_eq!(file.metadata().unwrap().len(), (1 << 20) + 8);
    drop(file);
    mounted.terminate().await;
    ground.is_sound().await;
}

/// Writes until nothing more is taken; gives how much that was.
fn fill(path: &Path) -> u64 {
    let file = File::create(path).unwrap();
    let piece = vec![0xA5; 256 << 10];
    let mut len = 0;
    for size in [piece.len(), 4096] {
        loop {
            match file.write_at(&piece[..size], len) {
                Ok(written) => len += written as u64,
                Err(cause) => {
                    assert_eq!(cause.raw_os_error(), Some(code(Errno::NOSPC)));
                    break;
                }
            }
        }
    }
    // What was taken has its room.
    file.sync_all().unwrap();
    len
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_store_says_so_and_can_be_emptied() {
    let Some(ground) = Ground::new("full") else { return };
    let mounted = ground.mount_with(&["--store-size", "64MiB", "--memory", "16MiB"]).await;
    fs::write(mounted.path("small"), b"before").unwrap();
    let first = fill(&mounted.path("ballast"));
    assert!(first > 20 << 20, "{first}");
    let more = File::create(mounted.path("more")).and_then(|file| file.write_at(&[1; 4096], 0));
    assert_eq!(errno(more), code(Errno::NOSPC));
    // Names can still change, and an open file can lose its own.
    fs::rename(mounted.path("small"), mounted.path("renamed")).unwrap();
    let open = File::open(mounted.path("renamed")).unwrap();
    fs::remove_file(mounted.path("renamed")).unwrap();
    let mut content = String::new();
    (&open).read_to_string(&mut content).unwrap();
    assert_eq!(content, "before");
    drop(open);
    for round in 0..3 {
        match round {
            0 => fs::remove_file(mounted.path("ballast")).unwrap(),
            1 => File::options()
                .write(true)
                .open(mounted.path("ballast"))
                .unwrap()
                .set_len(0)
                .unwrap(),
            _ => drop(File::create(mounted.path("ballast")).unwrap()),
        }
        let again = fill(&mounted.path("ballast"));
        assert!(again + (1 << 20) > first, "round {round}: {first}, then {again}");
    }
    let bytes = fs::read(mounted.path("ballast")).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0xA5));
    mounted.unmount().await;
    ground.is_sound().await;
}

/// A file without a name that is still open keeps its room; a name that comes meanwhile waits for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_on_a_full_store_waits_for_what_goes() {
    let Some(ground) = Ground::new("full-link") else { return };
    let mounted = ground.mount_with(&["--store-size", "64MiB", "--memory", "16MiB"]).await;
    fs::write(mounted.path("file"), b"named").unwrap();
    let going = File::create(mounted.path("going")).unwrap();
    going.write_all_at(&vec![1; 4 << 20], 0).unwrap();
    going.sync_all().unwrap();
    fill(&mounted.path("ballast"));
    let link = |number: u32| {
        let name = format!("{number:0>200}");
        fs::hard_link(mounted.path("file"), mounted.path(&name))
    };
    let full = (0..60_000).map(link).find_map(Result::err).expect("names need room, too");
    assert_eq!(full.raw_os_error(), Some(code(Errno::NOSPC)));
    fs::remove_file(mounted.path("going")).unwrap();
    assert_eq!(errno(link(60_001)), code(Errno::NOSPC), "it is open, and stays so");
    let closes = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        drop(going);
    });
    link(60_002).unwrap();
    closes.join().unwrap();
    mounted.unmount().await;
    ground.is_sound().await;
}

/// As `mount -t fuse.NAME` runs it: it ends when the file system is there, and the server stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_a_helper_of_mount() {
    let Some(ground) = Ground::new("helper") else { return };
    let at = ground.beside("mounted");
    let mut helper = Command::new(env!("CARGO_BIN_EXE_fuse"));
    helper.arg(ground.store()).arg(&at).args(["-o", "rw,suid,dev,size=64MiB,memory=16MiB"]);
    assert_eq!(run(&mut helper).await, "");
    fs::write(at.join("a"), b"through the helper").unwrap();
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let line = mounts.lines().find(|line| line.contains(at.to_str().unwrap())).unwrap().to_owned();
    assert!(!line.contains("nosuid") && !line.contains("nodev"), "{line}");
    rustix::mount::unmount(&at, rustix::mount::UnmountFlags::empty()).unwrap();
    ground.is_sound().await;
    // What is no store is refused, and said.
    fs::write(ground.beside("other"), vec![1; 1 << 20]).unwrap();
    let mut helper = Command::new(env!("CARGO_BIN_EXE_fuse"));
    let refused = helper.arg(ground.beside("other")).arg(&at).output().await.unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("opening"), "{said}");
}
