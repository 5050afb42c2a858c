//! Texts of `/proc/PID`: status, threads, control group.
#![forbid(unsafe_code)]

use std::io::ErrorKind;

use super::files::seen;
use crate::core::app::facts::{Filters, Seen, Status};

/// Reads `/proc/PID/status`; every member that is needed must be there.
pub(super) fn parse(text: &str) -> Seen<Status> {
    let field =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let need = |name: &str| field(name).ok_or_else(|| format!("status says nothing of {name}"));
    let number = |name: &str| {
        let value = need(name)?;
        value.parse::<u32>().map_err(|e| format!("status, {name}: {e}"))
    };
    let mut uids = [u32::MAX; 4];
    let words: Vec<&str> = need("Uid")?.split_whitespace().collect();
    if words.len() != uids.len() {
        return Err("status, Uid: not four users".into());
    }
    for (uid, word) in uids.iter_mut().zip(words) {
        *uid = word.parse().map_err(|e| format!("status, Uid: {e}"))?;
    }
    let egid = need("Gid")?.split_whitespace().nth(1).and_then(|g| g.parse().ok());
    let mode = number("Seccomp")?;
    Ok(Status {
        uids,
        egid: egid.ok_or("status, Gid: no effective group")?,
        tracer: number("TracerPid")?,
        threads: number("Threads")?,
        filters: Filters {
            mode,
            // Before Linux 5.9 they are not counted.
            count: field("Seccomp_filters")
                .map_or(Ok(mode.min(1)), |n| n.parse().map_err(|e| format!("{e}")))?,
            no_new_privs: number("NoNewPrivs")? != 0,
        },
    })
}

/// The first tracer of any thread; 0 for none.
pub(super) fn tracer_of_threads(pid: i32) -> Seen<u32> {
    let threads = seen("threads", std::fs::read_dir(format!("/proc/{pid}/task")))?;
    for thread in threads {
        let path = seen("threads", thread)?.path().join("status");
        let text = match std::fs::read_to_string(path) {
            // A thread that ends meanwhile runs nothing.
            Err(e) if e.kind() == ErrorKind::NotFound || e.raw_os_error() == Some(libc::ESRCH) => continue,
            text => seen("thread", text)?,
        };
        match parse(&text)?.tracer {
            0 => {}
            tracer => return Ok(tracer),
        }
    }
    Ok(0)
}

/// The control group of the unified hierarchy, from `/proc/PID/cgroup`.
pub(super) fn group(text: &str) -> String {
    text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("no unified hierarchy").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_read_or_refused() {
        let text = std::fs::read_to_string("/proc/self/status").unwrap();
        let status = parse(&text).unwrap();
        assert_eq!(status.uids[1], crate::sys::effective_uid());
        assert_eq!(status.tracer, 0);
        assert!(status.threads >= 1);
        for name in ["Uid:", "TracerPid:", "Seccomp:", "NoNewPrivs:", "Gid:"] {
            assert!(parse(&text.replace(name, "Other:")).is_err(), "{name}");
        }
        assert_eq!(group("1:name=x:/a\n0::/system.slice/pay.service\n"), "/system.slice/pay.service");
        assert_eq!(tracer_of_threads(i32::try_from(std::process::id()).unwrap()), Ok(0));
    }
}
