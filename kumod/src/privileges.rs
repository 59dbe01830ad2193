//! From root to the user the daemon runs as, keeping only the right to bind low ports, or to the owner of a spool. Must run
//! before any thread is started: capabilities belong to threads. Invariant: after success nothing of root's is left but
//! that right.
use std::ffi::CString;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Header of `capset(2)`: version 3, this thread.
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
const CAP_NET_BIND_SERVICE: u32 = 10;

pub fn is_root() -> bool {
    // SAFETY: geteuid takes nothing, touches no memory and can't fail.
    unsafe { libc::geteuid() == 0 }
}

/// Becomes `user`. The error says what failed and what to do.
pub fn become_user(user: &str) -> Result<(), String> {
    let (uid, gid) = ids_of(user)?;
    if !is_root() {
        // SAFETY: as above.
        let own = unsafe { libc::geteuid() };
        return if own == uid {
            Ok(())
        } else {
            Err(format!(
                "--user {user}: only root can become another user; start as root or as {user}"
            ))
        };
    }
    let name = CString::new(user).map_err(|_| format!("--user {user:?} holds a NUL octet"))?;
    // SAFETY: plain system calls on values; `name` is a C string that outlives its call.
    unsafe {
        check("keep capabilities", libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0))?;
        check("set the groups", libc::initgroups(name.as_ptr(), gid))?;
        check("set the group", libc::setresgid(gid, gid, gid))?;
        check("set the user", libc::setresuid(uid, uid, uid))?;
    }
    keep_only_low_ports()
}

/// From root to the owner of `path`, so that what is made there is the owner's and a link planted there leads to nothing
/// that the owner couldn't write anyway. Whoever isn't root stays who they are; so does root where there is no `path`,
/// or it is root's.
pub fn become_owner(path: &Path) -> Result<(), String> {
    let Ok(metadata) = std::fs::metadata(path) else { return Ok(()) };
    let (uid, gid) = (metadata.uid(), metadata.gid());
    if !is_root() || uid == 0 {
        return Ok(());
    }
    // SAFETY: plain system calls on values; setgroups reads the one group it is told of.
    let steps = unsafe {
        [
            ("groups", libc::setgroups(1, &raw const gid)),
            ("group", libc::setresgid(gid, gid, gid)),
            ("user", libc::setresuid(uid, uid, uid)),
        ]
    };
    for (what, result) in steps {
        if result != 0 {
            return Err(format!(
                "can't take the {what} of {}'s owner: {}; name one with --user NAME",
                path.display(),
                io::Error::last_os_error()
            ));
        }
    }
    Ok(())
}

fn keep_only_low_ports() -> Result<(), String> {
    let header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let bit = 1 << CAP_NET_BIND_SERVICE;
    let data = [
        CapabilityData { effective: bit, permitted: bit, inheritable: 0 },
        CapabilityData::default(),
    ];
    // SAFETY: capset reads a header and two data structs of version 3, laid out as the kernel defines them.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    check("keep the right to bind low ports", i32::try_from(result).unwrap_or(-1))
}

fn check(what: &str, result: i32) -> Result<(), String> {
    match result {
        0 => Ok(()),
        _ => Err(format!("--user: couldn't {what}: {}", io::Error::last_os_error())),
    }
}

/// User and group of a name, as /etc/passwd has them.
pub fn ids_of(user: &str) -> Result<(libc::uid_t, libc::gid_t), String> {
    let passwd = std::fs::read_to_string("/etc/passwd").map_err(|e| format!("/etc/passwd: {e}"))?;
    let ids = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let found = fields.next() == Some(user);
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        found.then_some((uid, gid))
    });
    ids.ok_or_else(|| {
        format!("--user {user}: /etc/passwd has no such user; create it with adduser")
    })
}

/// As many open files as the system allows: each connection is one.
pub fn raise_file_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls get a struct that outlives them.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name() {
        assert_eq!(ids_of("root"), Ok((0, 0)));
        assert!(ids_of("no-such-user").unwrap_err().contains("adduser"));
    }
}
