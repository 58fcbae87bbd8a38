//! What Prometheus' client libraries tell about a process, by their names, the version that runs, and the disks that it writes to.
//!
//! Only Linux tells about processes like this, under /proc; what cannot be read is left out.

use std::fs;
use std::path::PathBuf;

use super::text::{Kind, Text};

/// What /proc counts time in, on every Linux that Rust supports (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

pub fn render(text: &mut Text) {
    let name = "kafscale_build_info";
    text.family(name, Kind::Gauge, "Always 1; the labels say what runs.");
    text.sample(name, &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    let stat = Stat::read();
    let of_stat = |value: fn(&Stat) -> f64| stat.as_ref().map(value);
    let start = stat.as_ref().and_then(|stat| Some(boot_time_seconds()? + stat.started_seconds));
    let values = [
        (
            "process_cpu_seconds_total",
            Kind::Counter,
            "Time on processors, in seconds.",
            of_stat(|stat| stat.cpu_seconds),
        ),
        (
            "process_start_time_seconds",
            Kind::Gauge,
            "When the process started, in seconds since 1970.",
            start,
        ),
        (
            "process_resident_memory_bytes",
            Kind::Gauge,
            "Resident memory of the process.",
            resident_memory_bytes(),
        ),
        (
            "process_virtual_memory_bytes",
            Kind::Gauge,
            "Virtual memory of the process.",
            of_stat(|stat| stat.virtual_bytes),
        ),
        ("process_open_fds", Kind::Gauge, "Open files and sockets.", open_files()),
        ("process_max_fds", Kind::Gauge, "The most that may be open.", max_files()),
        ("process_threads", Kind::Gauge, "Threads of the process.", of_stat(|stat| stat.threads)),
    ];
    for (name, kind, help, value) in values {
        if let Some(value) = value {
            text.single(name, kind, help, value);
        }
    }
}

/// The disks under directories. Two directories of one disk have a sample each: each says what an operator has to look after.
pub fn disks(directories: &[PathBuf], text: &mut Text) {
    let spaces: Vec<_> = directories
        .iter()
        .filter_map(|dir| Some((dir.display().to_string(), kafscale_storage::disk_space(dir)?)))
        .collect();
    let name = "kafscale_disk_free_bytes";
    text.family(name, Kind::Gauge, "What is left on the disk of a directory, for this process.");
    for (directory, space) in &spaces {
        text.sample(name, &[("directory", directory)], space.free_bytes as f64);
    }
    let name = "kafscale_disk_size_bytes";
    text.family(name, Kind::Gauge, "The size of the disk of a directory.");
    for (directory, space) in &spaces {
        text.sample(name, &[("directory", directory)], space.size_bytes as f64);
    }
}

/// Fields of /proc/self/stat (proc_pid_stat(5)).
struct Stat {
    cpu_seconds: f64,
    threads: f64,
    /// Since the machine started.
    started_seconds: f64,
    virtual_bytes: f64,
}

impl Stat {
    fn read() -> Option<Stat> {
        Stat::parse(&fs::read_to_string("/proc/self/stat").ok()?)
    }

    fn parse(text: &str) -> Option<Stat> {
        // The name of the program, in brackets, may hold anything; behind it is field 3.
        let (_, behind) = text.rsplit_once(')')?;
        let fields: Vec<&str> = behind.split_whitespace().collect();
        let field = |number: usize| -> Option<f64> { fields.get(number.checked_sub(3)?)?.parse().ok() };
        Some(Stat {
            cpu_seconds: (field(14)? + field(15)?) / TICKS_PER_SECOND,
            threads: field(20)?,
            started_seconds: field(22)? / TICKS_PER_SECOND,
            virtual_bytes: field(23)?,
        })
    }
}

fn boot_time_seconds() -> Option<f64> {
    number_behind(&fs::read_to_string("/proc/stat").ok()?, "btime")
}

fn resident_memory_bytes() -> Option<f64> {
    let kib = number_behind(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")?;
    Some(kib * 1024.0)
}

fn open_files() -> Option<f64> {
    // The directory itself is open while it is read.
    Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as f64)
}

fn max_files() -> Option<f64> {
    number_behind(&fs::read_to_string("/proc/self/limits").ok()?, "Max open files")
}

/// The first number behind a word at the beginning of a line.
fn number_behind(text: &str, word: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(word))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_behind_any_name_are_found() {
        let text =
            "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 9 0 12345 4096 10 18446744073709551615";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.cpu_seconds, stat.threads), (3.0, 9.0));
        assert_eq!((stat.started_seconds, stat.virtual_bytes), (123.45, 4096.0));
        assert!(Stat::parse("7 (a").is_none());
    }

    #[test]
    fn numbers_are_found_behind_their_words() {
        let limits =
            "Limit   Soft   Hard   Units\nMax open files            1024                 4096       files\n";
        assert_eq!(number_behind(limits, "Max open files"), Some(1024.0));
        assert_eq!(number_behind("VmRSS:\t   2048 kB\n", "VmRSS:"), Some(2048.0));
        assert_eq!(number_behind("Max open files unlimited", "Max open files"), None);
    }
}
