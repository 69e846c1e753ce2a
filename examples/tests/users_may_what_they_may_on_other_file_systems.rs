//! Who may do what, and what comes of it: random calls by root and by three other users on a mounted store, and the
//! same ones on the file system of the temporary directory. Each must be answered with the same word, and leave the
//! same kinds, permission bits, owners, link counts, sizes and bytes: set-user-ID, set-group-ID, sticky directories,
//! groups that are passed on, hard links to files of others, and which calls change the time of modification.
//!
//! It needs root, `/dev/fuse` and python3. By hand: `FOLIANT_USERS=100000 FOLIANT_USERS_SEEDS=5 cargo test --release
//! -p foliant-examples --test users_may_what_they_may_on_other_file_systems -- --nocapture`
#![allow(clippy::unwrap_used)] // In a test, a failed unwrap is the failed test.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use support::fuse::Ground;
use support::fuse::run;
use support::process::is_there;
use tokio::process::Command;

/// Makes calls and says what came of each. It changes its effective user, which is whom the kernel asks about.
const CALLS: &str = r#"
import errno, os, random, shutil, stat, sys
top, seed, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
r = random.Random(seed)
os.umask(0)
users = [(0, 0, [0]), (1001, 1001, [1001]), (1002, 1002, [1002, 7]), (1003, 7, [7, 1001])]
ids = [0, 7, 1001, 1002, 1003]
# So long ago that no clock says it.
then = (10**9, 10**9)

def state(path):
    try: s = os.lstat(path)
    except OSError as e: return errno.errorcode[e.errno]
    kind = stat.S_IFMT(s.st_mode)
    plain = kind in (stat.S_IFREG, stat.S_IFLNK)
    size, links = (s.st_size, s.st_nlink) if plain else (0, 0)
    return f"{s.st_mode:o} {s.st_uid}:{s.st_gid} {links} {size}"

def picture(at, out):
    for name in sorted(os.listdir(at)):
        path = os.path.join(at, name)
        s = os.lstat(path)
        content = ""
        if stat.S_ISREG(s.st_mode):
            with open(path, "rb") as f: content = f.read().hex()
        elif stat.S_ISLNK(s.st_mode): content = os.readlink(path)
        out.append(f"{path[len(top):]} {state(path)} {content}")
        if stat.S_ISDIR(s.st_mode): picture(path, out)

def some():
    path = top
    for _ in range(r.randrange(1, 4)): path = os.path.join(path, r.choice("abcde"))
    return path

def mode():
    return r.choice([0o777, 0o666, 0o1777, 0o2777, 0o4777, 0o6777, 0o2770, 0o6755, 0o755, 0o700, 0o640, 0o2660,
                     r.randrange(0o10000)])

def opened(path, flags, then=lambda fd: "ok"):
    fd = os.open(path, flags | os.O_NONBLOCK, mode())
    try: return then(fd)
    finally: os.close(fd)

def xattr(path):
    os.setxattr(path, "user.x", b"1", follow_symlinks=False)
    found = os.getxattr(path, "user.x", follow_symlinks=False)
    os.removexattr(path, "user.x", follow_symlinks=False)
    return found

FALLOC_PUNCH = 3
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def fallocate(fd, how, at, size):
    if libc.fallocate64(fd, how, ctypes.c_int64(at), ctypes.c_int64(size)):
        e = ctypes.get_errno()
        raise OSError(e, os.strerror(e))
    return "ok"

def call(path, other):
    n, kind = r.randrange(1, 300), r.randrange(26)
    mine, theirs = r.choice(ids + [-1]), r.choice(ids)
    if kind <= 1: return "mkdir", lambda: os.mkdir(path, mode())
    if kind <= 3: return "create", lambda: opened(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL)
    if kind == 4: return "create or open", lambda: opened(path, os.O_CREAT | os.O_RDWR)
    if kind == 5: return "read", lambda: opened(path, os.O_RDONLY, lambda fd: os.read(fd, 1000))
    if kind <= 7: return "write", lambda: opened(path, os.O_WRONLY, lambda fd: os.pwrite(fd, b"w" * n, n))
    if kind == 8: return "append", lambda: opened(path, os.O_WRONLY | os.O_APPEND, lambda fd: os.write(fd, b"a" * n))
    if kind == 9: return "open and cut", lambda: opened(path, os.O_WRONLY | os.O_TRUNC)
    if kind == 10: return "truncate", lambda: os.truncate(path, n)
    if kind == 11: return "allocate", lambda: opened(path, os.O_WRONLY, lambda fd: fallocate(fd, 0, n, n))
    if kind == 12: return "punch", lambda: opened(path, os.O_WRONLY, lambda fd: fallocate(fd, FALLOC_PUNCH, n, n))
    if kind == 13: return "rmdir", lambda: os.rmdir(path)
    if kind == 14: return "unlink", lambda: os.unlink(path)
    if kind <= 16: return "rename", lambda: os.rename(path, other)
    if kind == 17: return "link", lambda: os.link(path, other, follow_symlinks=False)
    if kind == 18: return "symlink", lambda: os.symlink(r.choice("abcde"), path)
    if kind <= 20: return "chmod", lambda: os.chmod(path, mode())
    if kind == 21: return "chown", lambda: os.chown(path, mine, theirs)
    if kind == 22: return "lchown", lambda: os.lchown(path, -1, theirs)
    if kind == 23: return r.choice([("touch", lambda: os.utime(path)), ("set times", lambda: os.utime(path, (5, 5)))])
    if kind == 24: return r.choice([("fifo", lambda: os.mkfifo(path, mode())), ("xattr", lambda: xattr(path)),
                                    ("device", lambda: os.mknod(path, stat.S_IFCHR | mode(), os.makedev(1, 3)))])
    return "list", lambda: sorted(os.listdir(path))

def age(path):
    try: os.utime(path, then, follow_symlinks=False)
    except OSError: pass

def aged(path):
    try: return os.lstat(path).st_mtime == then[1]
    except OSError: return "-"

os.chmod(top, 0o1777)
for step in range(count):
    if step % 3000 == 2999:
        out = []
        picture(top, out)
        print("\n".join(out))
        for name in os.listdir(top):
            path = os.path.join(top, name)
            shutil.rmtree(path) if stat.S_ISDIR(os.lstat(path).st_mode) else os.unlink(path)
    path, other = some(), some()
    touched = [path, os.path.dirname(path), other, os.path.dirname(other)]
    name, work = call(path, other)
    uid, gid, groups = r.choice(users)
    for each in touched: age(each)
    os.setgroups(groups); os.setegid(gid); os.seteuid(uid)
    before = r.getstate()
    try: said = work()
    except OSError as e: said = errno.errorcode[e.errno]
    os.seteuid(0); os.setegid(0); os.setgroups([0])
    # What a call draws depends on how far it came.
    r.setstate(before); r.random()
    seen = [f"{state(each)} {aged(each)}" for each in touched]
    short = path[len(top):]
    print(step, uid, name, short, other[len(top):] if name in ("rename", "link") else "", said, seen)
out = []
picture(top, out)
print("\n".join(out))
"#;

async fn calls(ground: &Ground, at: &Path, seed: u64, count: u64) -> String {
    std::fs::create_dir_all(at).unwrap();
    let script = ground.beside("calls.py");
    std::fs::write(&script, CALLS).unwrap();
    let (seed, count) = (seed.to_string(), count.to_string());
    run(Command::new("python3").arg(script).arg(at).args([seed, count])).await
}

fn compare(found: &str, expected: &str, seed: u64) {
    let mut before: Vec<&str> = Vec::new();
    for (found, expected) in found.lines().zip(expected.lines()) {
        if found != expected {
            let before = &before[before.len().saturating_sub(12)..];
            panic!("seed {seed}:\n{}\nhere:  {found}\nthere: {expected}", before.join("\n"));
        }
        before.push(found);
    }
    assert_eq!(found.lines().count(), expected.lines().count(), "seed {seed}");
}

/// Changes a program of root as another user, and runs it, without a look at it in between.
const CHANGE_AND_RUN: &str = r#"
import ctypes, os, sys
path, how = sys.argv[1:]
os.stat(path)
os.setgroups([]); os.setgid(1001); os.setuid(1001)
fd = os.open(path, os.O_RDWR)
if how == "write": os.pwrite(fd, os.pread(fd, 1, 0), 0)
if how == "punch":
    assert ctypes.CDLL(None).fallocate64(fd, 3, ctypes.c_int64(16 << 20), ctypes.c_int64(4096)) == 0
os.close(fd)
os.execv(path, [path, "-u"])
"#;

/// A program with set-user-ID that everybody may write to. Who writes to it takes the bit away; but the kernel did
/// not know, and ran the new bytes with the rights of root until somebody asked for the permissions. And a hole
/// took nothing away at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_somebody_changed_runs_with_his_own_rights() {
    let Some(ground) = Ground::new("changed-program") else { return };
    if !is_there("python3", "python3") {
        return;
    }
    let mounted = ground.mount_with(&["--store-size", "64MiB", "--options", "suid"]).await;
    for (how, runs_as) in [("nothing", "0"), ("write", "1001"), ("punch", "1001")] {
        let program = mounted.path(how);
        std::fs::copy("/usr/bin/id", &program).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o6777)).unwrap();
        let mut changed = Command::new("python3");
        let said = run(changed.args(["-c", CHANGE_AND_RUN]).arg(&program).arg(how)).await;
        assert_eq!(said.trim(), runs_as, "after {how}");
    }
    mounted.unmount().await;
    ground.is_sound().await;
}

fn number(name: &str, or: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(or)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_calls_have_the_same_answers() {
    let Some(ground) = Ground::new("users") else { return };
    if !is_there("python3", "python3") {
        return;
    }
    let (first, seeds) = (number("FOLIANT_USERS_SEED", 1), number("FOLIANT_USERS_SEEDS", 2));
    let count = number("FOLIANT_USERS", 3_000);
    for seed in first..first + seeds {
        let options = ["--options", "allow_other,default_permissions,suid,dev"];
        let size = ["--store-size", "128MiB", "--memory", "16MiB"];
        let mounted = ground.mount_with(&[&options[..], &size].concat()).await;
        let found = calls(&ground, &mounted.path("tree"), seed, count).await;
        mounted.unmount().await;
        ground.is_sound().await;
        let plain = ground.beside("plain");
        let expected = calls(&ground, &plain, seed, count).await;
        std::fs::remove_dir_all(plain).unwrap();
        std::fs::remove_file(ground.store()).unwrap();
        compare(&found, &expected, seed);
        let refused =
            found.lines().filter(|line| line.contains(" EACCES ") || line.contains(" EPERM "));
        println!("seed {seed}: {count} calls, {} refused", refused.count());
    }
}
