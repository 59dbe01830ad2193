//! The `Host` port: clocks, host name, interfaces, memory, entropy, as Linux tells them.
//!
//! Invariant: `now().mono` never goes back. What the system won't tell is answered harmlessly (no interface, no
//! memory limit), never with a panic. Nothing is cached but the clock's anchor.
use kumo_core::port::{Host, MemoryStatus};
use kumo_core::time::{Mono, Now, Wall};
use std::collections::BTreeSet;
use std::ffi::CStr;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Component, Path, PathBuf};
use std::ptr;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// This machine, and this process on it.
pub struct RealHost {
    anchor: Instant,
}

impl RealHost {
    /// `mono` counts from here.
    #[expect(clippy::new_without_default, reason = "the moment of its making is part of it")]
    pub fn new() -> RealHost {
        RealHost { anchor: Instant::now() }
    }
}

impl Host for RealHost {
    fn now(&self) -> Now {
        let mono = u64::try_from(self.anchor.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Now { mono: Mono(mono), wall: wall_clock(SystemTime::now()) }
    }

    fn hostname(&self) -> String {
        let mut name = [0u8; 256];
        // SAFETY: the buffer is ours and one octet longer than we say, so that the name always ends in NUL.
        let failed = unsafe { libc::gethostname(name.as_mut_ptr().cast(), name.len() - 1) } != 0;
        let name = CStr::from_bytes_until_nul(&name).unwrap_or_default().to_string_lossy();
        if failed || name.is_empty() { "localhost".into() } else { name.into_owned() }
    }

    fn interfaces(&self) -> Vec<IpAddr> {
        let mut list: *mut libc::ifaddrs = ptr::null_mut();
        // SAFETY: `list` is a place for the result; it is freed below, once, after the last use.
        if unsafe { libc::getifaddrs(&mut list) } != 0 {
            return Vec::new();
        }
        let mut addresses = BTreeSet::new();
        let mut next = list;
        // SAFETY: getifaddrs gave a chain of valid entries that ends in null.
        while let Some(entry) = unsafe { next.as_ref() } {
            // SAFETY: an entry's address is null or a socket address of the family it names.
            addresses.extend(unsafe { ip_address(entry.ifa_addr) });
            next = entry.ifa_next;
        }
        // SAFETY: what getifaddrs gave, not yet freed, and nothing refers to it any more.
        unsafe { libc::freeifaddrs(list) };
        addresses.into_iter().collect()
    }

    fn memory(&self) -> MemoryStatus {
        let limit_octets = cgroup_limit(Path::new(CGROUP_ROOT), &read("/proc/self/cgroup"))
            .into_iter()
            .chain(total_memory(&read("/proc/meminfo")))
            .min()
            .unwrap_or(u64::MAX);
        let used_octets = resident_pages(&read("/proc/self/statm")).saturating_mul(page_octets());
        MemoryStatus { used_octets, limit_octets }
    }

    fn seed(&self) -> u64 {
        let mut seed = [0u8; 8];
        // SAFETY: the buffer is ours and as long as we say.
        let got = unsafe { libc::getrandom(seed.as_mut_ptr().cast(), seed.len(), 0) };
        // getrandom(2): up to 256 octets always come in full, without interruption. Going on with a seed that
        // can be guessed would be worse than not starting.
        assert_eq!(got, 8, "the kernel gives no entropy: {}", std::io::Error::last_os_error());
        u64::from_ne_bytes(seed)
    }
}

fn wall_clock(time: SystemTime) -> Wall {
    let nanos = |duration: std::time::Duration| i64::try_from(duration.as_nanos());
    Wall(match time.duration_since(UNIX_EPOCH) {
        Ok(after) => nanos(after).unwrap_or(i64::MAX),
        Err(before) => nanos(before.duration()).map_or(i64::MIN, |nanos| -nanos),
    })
}

/// # Safety
/// `address` must be null or point to a socket address of the family that it names.
unsafe fn ip_address(address: *const libc::sockaddr) -> Option<IpAddr> {
    // SAFETY: the caller's promise.
    let family = i32::from(unsafe { address.as_ref() }?.sa_family);
    match family {
        libc::AF_INET => {
            // SAFETY: the family says that it is an IPv4 socket address; read without asking for alignment.
            let v4 = unsafe { address.cast::<libc::sockaddr_in>().read_unaligned() };
            Some(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above, for IPv6.
            let v6 = unsafe { address.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some(Ipv6Addr::from(v6.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The smallest `memory.max` between our cgroup (version 2) and the root: the one that kills us first.
fn cgroup_limit(root: &Path, membership: &str) -> Option<u64> {
    let ours = membership.lines().find_map(|line| line.strip_prefix("0::"))?;
    let mut directory: PathBuf = root.to_owned();
    let mut limits = vec![memory_max(&directory)];
    for component in Path::new(ours).components() {
        if let Component::Normal(name) = component {
            directory.push(name);
            limits.push(memory_max(&directory));
        }
    }
    limits.into_iter().flatten().min()
}

/// `None` for `max`, and where there is no such file.
fn memory_max(cgroup: &Path) -> Option<u64> {
    read(cgroup.join("memory.max")).trim().parse().ok()
}

fn total_memory(meminfo: &str) -> Option<u64> {
    let rest = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibi: u64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibi.checked_mul(1024)
}

fn resident_pages(statm: &str) -> u64 {
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0)
}

fn page_octets() -> u64 {
    // SAFETY: takes a number, gives a number.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn both_clocks_run_and_wall_is_utc() {
        let host = RealHost::new();
        let (before, first) = (SystemTime::now(), host.now());
        std::thread::sleep(Duration::from_millis(5));
        let (second, after) = (host.now(), SystemTime::now());
        assert!(second.mono.since(first.mono) >= Duration::from_millis(5));
        assert!(first.wall >= wall_clock(before) && second.wall <= wall_clock(after));
    }

    #[test]
    fn a_clock_before_1970_is_negative_and_not_a_panic() {
        assert_eq!(wall_clock(UNIX_EPOCH - Duration::from_secs(2)), Wall(-2_000_000_000));
        assert_eq!(wall_clock(UNIX_EPOCH + Duration::from_nanos(7)), Wall(7));
    }

    #[test]
    fn hostname_is_what_the_kernel_says() {
        let kernel = fs::read_to_string("/proc/sys/kernel/hostname").expect("Linux has it");
        assert_eq!(RealHost::new().hostname(), kernel.trim());
    }

    #[test]
    fn interfaces_include_loopback_once() {
        let interfaces = RealHost::new().interfaces();
        let loopback = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(interfaces.iter().filter(|address| **address == loopback).count(), 1);
    }

    #[test]
    fn socket_addresses_of_both_families_are_read() {
        // SAFETY: all zero is a valid value of these plain C structures.
        let (mut v4, mut v6): (libc::sockaddr_in, libc::sockaddr_in6) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        v4.sin_family = libc::AF_INET as libc::sa_family_t;
        v4.sin_addr.s_addr = u32::from_ne_bytes([192, 0, 2, 7]);
        v6.sin6_family = libc::AF_INET6 as libc::sa_family_t;
        v6.sin6_addr.s6_addr = "2001:db8::7".parse::<Ipv6Addr>().expect("an address").octets();
        // SAFETY: the families are those of the structures; null is allowed.
        let read = unsafe {
            [
                ip_address((&raw const v4).cast()),
                ip_address((&raw const v6).cast()),
                ip_address(ptr::null()),
            ]
        };
        let expected = ["192.0.2.7", "2001:db8::7"].map(|text| text.parse().ok());
        assert_eq!(read, [expected[0], expected[1], None]);
    }

    #[test]
    fn memory_in_use_lies_within_the_limit() {
        let memory = RealHost::new().memory();
        assert!(memory.used_octets > 100_000, "{memory:?}");
        assert!(memory.used_octets < memory.limit_octets, "{memory:?}");
        assert!(memory.limit_octets < u64::MAX, "{memory:?}");
    }

    #[test]
    fn the_tightest_cgroup_on_the_way_to_the_root_counts() {
        let root = tempfile::tempdir().expect("a scratch directory");
        let group = root.path().join("system.slice/kumod.service");
        fs::create_dir_all(&group).expect("made");
        let write = |path: &str, text: &str| {
            fs::write(root.path().join(path).join("memory.max"), text).expect("written");
        };
        let membership = "9:memory:/else\n0::/system.slice/kumod.service\n";
        assert_eq!(cgroup_limit(root.path(), membership), None);
        write("system.slice/kumod.service", "max\n");
        assert_eq!(cgroup_limit(root.path(), membership), None);
        write("system.slice", "1048576\n");
        write("system.slice/kumod.service", "2097152\n");
        assert_eq!(cgroup_limit(root.path(), membership), Some(1_048_576));
        assert_eq!(cgroup_limit(root.path(), "4:memory:/only-version-1\n"), None);
    }

    #[test]
    fn figures_that_are_not_there_do_no_harm() {
        assert_eq!(total_memory("MemTotal:       16 kB\nMemFree: 1 kB\n"), Some(16_384));
        assert_eq!(total_memory("MemTotal: many kB"), None);
        assert_eq!(resident_pages("100 42 3"), 42);
        assert_eq!(resident_pages(""), 0);
    }

    #[test]
    fn seeds_differ() {
        let seeds: BTreeSet<u64> = (0..8).map(|_| RealHost::new().seed()).collect();
        assert_eq!(seeds.len(), 8);
    }
}
