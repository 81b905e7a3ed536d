//! The process as the system sees it: the metrics that every Prometheus client has, by the same names.

use std::fs;

use rustix::process::{Resource, getrlimit};

use super::tasks;
use super::text::Text;

/// Writes what can be read; what can't is left out.
pub(super) fn write(out: &mut Text<'_>) {
    let ticks = rustix::param::clock_ticks_per_second();
    let stat = fs::read_to_string("/proc/self/stat").ok();
    if let Some(stat) = stat.as_deref().and_then(Stat::parse) {
        out.single("process_cpu_seconds_total", "counter", "CPU time spent, in seconds.", fraction(stat.cpu, ticks));
        out.single("process_threads", "gauge", "Threads.", stat.threads);
        let boot = fs::read_to_string("/proc/stat").ok().and_then(|stat| boot_time(&stat));
        if let Some(boot) = boot {
            let started = fraction(boot.saturating_mul(ticks).saturating_add(stat.start), ticks);
            out.single("process_start_time_seconds", "gauge", "When the process started, in seconds since 1970.", started);
        }
        out.single("process_virtual_memory_bytes", "gauge", "Virtual memory.", stat.virtual_bytes);
        let resident = stat.resident_pages.saturating_mul(rustix::param::page_size() as u64);
        out.single("process_resident_memory_bytes", "gauge", "Memory in use.", resident);
    }
    if let Ok(descriptors) = fs::read_dir("/proc/self/fd") {
        // One of them is the listing's own.
        out.single("process_open_fds", "gauge", "Open file descriptors.", descriptors.count().saturating_sub(1));
    }
    out.single("process_tasks", "gauge", "Tasks of the program: connections, and work beside requests.", tasks::alive());
    if let Some(max) = getrlimit(Resource::Nofile).current {
        out.single("process_max_fds", "gauge", "File descriptors that may be open.", max);
    }
}

/// Of proc_pid_stat(5); times in clock ticks.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    cpu: u64,
    threads: u64,
    /// Since the system booted.
    start: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The name, in parentheses, may hold anything, parentheses too.
        let (_, rest) = text.rsplit_once(')')?;
        // Fields are numbered from 1; the first after the name is the third.
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            cpu: field(14)?.saturating_add(field(15)?),
            threads: field(20)?,
            start: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

fn boot_time(stat: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// Ticks as seconds, to the hundredth.
fn fraction(ticks: u64, per_second: u64) -> String {
    let per_second = per_second.max(1);
    format!("{}.{:02}", ticks / per_second, ticks % per_second * 100 / per_second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_shifts_nothing() {
        let text = "7 (a) b (c)) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 9 0 12345 1000000 256 18446744073709551615 1";
        let stat = Stat { cpu: 300, threads: 9, start: 12345, virtual_bytes: 1_000_000, resident_pages: 256 };
        assert_eq!(Stat::parse(text), Some(stat));
        assert_eq!(Stat::parse("7 (a) S 1"), None);
        assert_eq!(fraction(12345, 100), "123.45");
        assert_eq!(boot_time("cpu 1\nbtime 1700000000\n"), Some(1_700_000_000));
    }

    #[test]
    fn this_process_has_them_all() {
        let mut text = String::new();
        write(&mut Text::new(&mut text));
        for name in ["cpu_seconds_total", "start_time_seconds", "resident_memory_bytes", "open_fds", "max_fds", "threads"] {
            assert!(text.contains(&format!("\nprocess_{name} ")), "{name}\n{text}");
        }
    }
}
