//! Starts and commands that are refused: what they leave behind, and whether the ways out that they name are ways out.

#![expect(clippy::unwrap_used, reason = "a test ends where its world is not as expected")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{Process, kafscale, output};
use rustix::process::Signal;
use tempfile::TempDir;

const FREE_PORTS: [&str; 4] = ["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"];
const SMALL_WAL: [&str; 4] = ["--wal-file-bytes", "1MiB", "--wal-max-bytes", "64MiB"];

/// Every file below a directory with what it holds, and every directory.
fn content(dir: &Path) -> BTreeMap<PathBuf, u64> {
    let (mut found, mut open) = (BTreeMap::new(), vec![dir.to_owned()]);
    while let Some(dir) = open.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            let mut hasher = DefaultHasher::new();
            match path.is_dir() {
                true => open.push(path.clone()),
                false => fs::read(&path).unwrap().hash(&mut hasher),
            }
            found.insert(path, hasher.finish());
        }
    }
    found
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg("--sparse=always").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}

/// A directory that a demo was killed in, with records in several write-ahead files.
fn used(parent: &Path, name: &str) -> PathBuf {
    let dir = parent.join(name);
    let mut command = kafscale(&[&["demo", "--mcp-http-addr", "127.0.0.1:0"][..], &SMALL_WAL].concat());
    command.arg("--data-dir").arg(&dir);
    let mut demo = Process::spawn(command);
    demo.wait_for("the sample workload is running");
    // `verify` takes the names of topics from it.
    let deadline = Instant::now() + Duration::from_secs(30);
    while !has_snapshot_of_the_topics(&dir) {
        assert!(Instant::now() < deadline, "there is no snapshot of the metadata");
        sleep(Duration::from_millis(100));
    }
    demo.stop(Signal::KILL);
    dir
}

fn has_snapshot_of_the_topics(dir: &Path) -> bool {
    let Ok(snapshots) = fs::read_dir(dir.join("snapshots")) else { return false };
    let texts = snapshots.map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap_or_default());
    texts.into_iter().any(|text| ["orders", "payments"].iter().all(|topic| text.contains(topic)))
}

fn wal_files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        fs::read_dir(dir.join("wal/1")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|e| e == "kfw"));
    files.sort();
    files
}

fn overwrite(file: &Path, at: u64, bytes: &[u8]) {
    fs::File::options().write(true).open(file).unwrap().write_all_at(bytes, at).unwrap();
}

type Spoil = fn(&Path, &Path);

/// What is done to a directory (the second is another one), and what the refusal says.
const SPOILT: &[(Spoil, &str)] = &[
    (
        |dir, _| fs::remove_file(dir.join("meta/kafscale.redb")).unwrap(),
        "the metadata is new or belongs to another store",
    ),
    (
        |dir, _| fs::remove_dir_all(dir.join("meta")).unwrap(),
        "the metadata is new or belongs to another store",
    ),
    (
        |dir, other| {
            fs::remove_dir_all(dir.join("meta")).unwrap();
            copy(&other.join("meta"), &dir.join("meta"));
        },
        "the metadata belongs to the store with the id",
    ),
    (
        |dir, _| {
            for name in ["topics", "wal", "snapshots", ".staging"] {
                // There may be no segments yet.
                let _ = fs::remove_dir_all(dir.join(name));
            }
            for name in ["VERSION", "LOCK", "identity.json"] {
                fs::remove_file(dir.join(name)).unwrap();
            }
        },
        "the metadata knows topics with records",
    ),
    (|dir, _| fs::remove_dir_all(dir.join("wal")).unwrap(), "is gone, or is an older copy"),
    (|dir, _| fs::remove_file(wal_files(dir).last().unwrap()).unwrap(), "the newest write-ahead file"),
    (|dir, _| fs::remove_file(&wal_files(dir)[1]).unwrap(), "is missing"),
    (|dir, _| overwrite(&wal_files(dir)[0], 4096, &[0; 64]), "is damaged at byte 4096"),
    (|dir, _| overwrite(&wal_files(dir)[0], 0, &[0; 100]), "its header is damaged"),
    (|dir, _| fs::write(dir.join("VERSION"), "9\n").unwrap(), "has format version 9"),
    (|dir, _| fs::write(dir.join("VERSION"), "one\n").unwrap(), "does not hold the number of a version"),
    (
        |dir, _| {
            let identity = fs::read_to_string(dir.join("identity.json")).unwrap();
            fs::write(dir.join("identity.json"), identity.replace("\"v\":1", "\"v\":7")).unwrap();
        },
        "was written by a newer release",
    ),
    (
        |dir, other| {
            let file = wal_files(dir).pop().unwrap();
            let mut header = fs::read(&file).unwrap();
            let others = fs::read(&wal_files(other)[0]).unwrap();
            header[80..100].copy_from_slice(&others[80..100]);
            fs::write(&file, header).unwrap();
        },
        "belongs to the store with the id",
    ),
    (
        |dir, _| {
            let file = dir.join("meta/kafscale.redb");
            let size = file.metadata().unwrap().len();
            fs::File::options().write(true).open(&file).unwrap().set_len(size / 2).unwrap();
        },
        "is damaged",
    ),
    (
        |dir, other| {
            fs::copy(other.join("meta/kafscale.commits"), dir.join("meta/kafscale.commits")).unwrap();
        },
        "belongs to another metadata store",
    ),
];

#[test]
fn a_start_that_is_refused_leaves_the_directory_as_it_was() {
    let parent = TempDir::new().unwrap();
    let (good, other) = (used(parent.path(), "good"), used(parent.path(), "other"));
    for (at, (spoil, expected)) in SPOILT.iter().enumerate() {
        let dir = parent.path().join(format!("case-{at}"));
        copy(&good, &dir);
        // Half-made files tell of a start that goes to work.
        fs::write(dir.join("wal/1/0000.tmp"), "half a file").unwrap();
        spoil(&dir, &other);
        let before = content(&dir);
        for attempt in 1..=2 {
            let (refused, _, err) = output(
                &[&["broker", "--data-dir", dir.to_str().unwrap()][..], &FREE_PORTS, &SMALL_WAL].concat(),
            );
            assert_eq!(refused.status.code(), Some(1), "{err}");
            assert!(err.contains(expected), "attempt {attempt}, {expected}: {err}");
            assert!(content(&dir) == before, "attempt {attempt}, {expected}: the directory was changed");
        }
        fs::remove_dir_all(&dir).unwrap();
    }
    let node = ["--node-id", "2"];
    refused_and_unchanged(
        &good,
        &[&["broker"][..], &FREE_PORTS, &node].concat(),
        "has records of the broker",
    );
    refused_and_unchanged(&good, &["restore"], "has this cluster already");
    // And what was refused so often starts.
    let broker = Process::start(&["broker"], &good);
    assert_eq!(broker.stop(Signal::TERM), Some(0));
}

fn refused_and_unchanged(dir: &Path, args: &[&str], expected: &str) {
    let before = content(dir);
    let (refused, _, err) = output(&[args, &["--data-dir", dir.to_str().unwrap()]].concat());
    assert!(!refused.status.success(), "{args:?}: {err}");
    assert!(err.contains(expected), "{args:?}: {err}");
    assert!(content(dir) == before, "{args:?}: the directory was changed");
}

#[test]
fn metadata_from_an_old_copy_is_refused_and_nothing_is_changed() {
    let parent = TempDir::new().unwrap();
    let dir = used(parent.path(), "data");
    copy(&dir.join("meta"), &parent.path().join("old"));
    for _ in 0..2 {
        assert_eq!(Process::start(&["broker"], &dir).stop(Signal::TERM), Some(0));
    }
    fs::remove_dir_all(dir.join("meta")).unwrap();
    copy(&parent.path().join("old"), &dir.join("meta"));
    for _ in 0..2 {
        refused_and_unchanged(
            &dir,
            &[&["broker"][..], &FREE_PORTS].concat(),
            "the metadata is older than the store",
        );
    }
}

#[test]
fn wrong_addresses_and_files_are_refused_before_there_is_a_directory() {
    let parent = TempDir::new().unwrap();
    let dir = parent.path().join("new");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    let cut = parent.path().join("audit.jsonl");
    fs::write(&cut, "").unwrap();
    fs::write(parent.path().join("audit.jsonl.head"), format!("{:020} {}\n", 2, "0".repeat(64))).unwrap();
    let cut = cut.to_str().unwrap();
    let mcp = ["--mcp-http-addr", "127.0.0.1:0"];
    let cases: [(&[&str], &str); 6] = [
        (&["--listen", &taken, "--metrics-listen", "127.0.0.1:0"], "Address already in use"),
        (&["--listen", "127.0.0.1:0", "--metrics-listen", &taken], "Address already in use"),
        (&[&FREE_PORTS[..], &["--listen-internal", &taken]].concat(), "Address already in use"),
        (&[&FREE_PORTS[..], &["--mcp-http-addr", &taken]].concat(), "Address already in use"),
        (&[&FREE_PORTS[..], &mcp, &["--mcp-auth-token-file", "/nowhere"]].concat(), "/nowhere"),
        (&[&FREE_PORTS[..], &mcp, &["--mcp-audit-log", cut]].concat(), "the end is missing"),
    ];
    for (args, expected) in cases {
        refused_and_unchanged(&dir, &[&["broker"][..], args].concat(), expected);
        assert!(!dir.exists(), "{args:?} made {}", dir.display());
    }
}

/// The command that a message ends with.
fn last_command(message: &str) -> &str {
    let at = message.find("mv ").unwrap_or_else(|| panic!("no command: {message}"));
    message[at..].lines().next().unwrap()
}

#[test]
fn the_way_out_of_an_audit_log_that_was_cut_off_is_one() {
    let parent = TempDir::new().unwrap();
    let (data, dir) = (parent.path().join("data"), parent.path().join("it's here"));
    fs::create_dir(&dir).unwrap();
    let (log, head) = (dir.join("audit.jsonl"), dir.join("audit.jsonl.head"));
    let audit = log.to_str().unwrap();
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mcp = ["--mcp-http-addr", &address, "--mcp-auth-token", "a-token-that-is-long-enough"];
    let args = [&["broker"][..], &mcp, &["--mcp-audit-log", audit]].concat();
    // What is wrong in the middle is found when all of the log is read, for which the metadata has to be open.
    let cuts: [(&dyn Fn(), bool); 3] = [
        (&|| fs::write(&log, "").unwrap(), true),
        (&|| fs::write(&head, "no head").unwrap(), true),
        (
            &|| {
                let text = fs::read_to_string(&log).unwrap();
                fs::write(&log, text.replacen("\"method\"", "\"metho\"", 1)).unwrap();
            },
            false,
        ),
    ];
    for (cut, is_found_before) in cuts {
        let broker = Process::start(&args, &data);
        // Who is turned away has a line.
        let mut stream = TcpStream::connect(&address).unwrap();
        stream
            .write_all(
                b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            )
            .unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
        assert_eq!(broker.stop(Signal::TERM), Some(0));
        cut();
        let before = content(&data);
        let (refused, _, err) =
            output(&[&args[..], &FREE_PORTS, &["--data-dir", data.to_str().unwrap()]].concat());
        assert_eq!(refused.status.code(), Some(1), "{err}");
        assert!(content(&data) == before || !is_found_before, "the directory was changed: {err}");
        let moved = Command::new("sh").args(["-c", last_command(&err)]).status().unwrap();
        assert!(moved.success(), "{err}");
        assert!(!log.exists() && !head.exists(), "{err}");
        assert_eq!(Process::start(&args, &data).stop(Signal::TERM), Some(0));
        let (verified, _, err) = output(&["audit", "verify", audit]);
        assert!(verified.status.success(), "{err}");
    }
    assert!(fs::read_to_string(&log).unwrap().contains("a new chain: the one before ended with line"));
}

#[test]
fn a_write_that_was_cut_off_is_told_of_with_its_place_and_its_topic() {
    let parent = TempDir::new().unwrap();
    let dir = used(parent.path(), "data");
    let file = wal_files(&dir).pop().unwrap();
    // Into the middle of the last write. Behind it are zeros, which the file was reserved with.
    let bytes = fs::read(&file).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64;
    fs::File::options().write(true).open(&file).unwrap().set_len(end - 200).unwrap();
    let data = dir.to_str().unwrap();
    let before = content(&dir);
    let (verified, out, _) = output(&["verify", "--data-dir", data, "--quiet", "--repair-report"]);
    assert_eq!(verified.status.code(), Some(1), "{out}");
    let line = out.lines().find(|line| line.contains("the last write is not whole")).expect(&out);
    assert!(
        line.starts_with(file.to_str().unwrap()) && line.contains("may have been acknowledged"),
        "{line}"
    );
    assert!(line.contains("may be lost") && out.contains("put it back from a copy before"), "{out}");
    let (_, at) = line.split_once(" at byte ").unwrap();
    let position: u64 = at.split_once(':').unwrap().0.parse().unwrap();
    assert_eq!(&bytes[position as usize..][..4], b"KAFW", "where the write begins");
    let topics = ["orders-", "payments-", "batches of which nothing is known"];
    assert!(topics.iter().any(|topic| line.contains(topic)), "{line}");
    assert!(content(&dir) == before, "verify changed something");
    let mut command = kafscale(&["broker", "--data-dir", data]);
    command.args(SMALL_WAL).args(FREE_PORTS);
    let mut broker = Process::spawn_beside_with(command);
    let warned = broker.wait_for("the last write of the write-ahead log is not whole, and is left out");
    assert_eq!(warned["position"], position, "{warned}");
    assert!(warned["meaning"].as_str().unwrap().contains("may have been acknowledged"), "{warned}");
    assert!(topics.iter().any(|topic| warned["records"].as_str().unwrap().contains(topic)), "{warned}");
    broker.wait_for("ready");
    assert_eq!(broker.stop(Signal::TERM), Some(0));
    // It is known where the log ended.
    let (verified, out, err) = output(&["verify", "--data-dir", data, "--quiet"]);
    assert!(verified.status.success(), "{out}{err}");
}

#[test]
fn damage_of_the_write_ahead_log_has_one_position() {
    let parent = TempDir::new().unwrap();
    let dir = used(parent.path(), "data");
    let file = wal_files(&dir).pop().unwrap();
    // The first batch of the file the process was writing to.
    overwrite(&file, 4096 + 64 + 70, &[0xa5; 4]);
    let data = dir.to_str().unwrap();
    let (_, out, _) = output(&["verify", "--data-dir", data, "--quiet"]);
    let line = out.lines().find(|line| line.contains("at byte 4160:")).expect(&out);
    let named = ["orders-", "payments-"].iter().any(|topic| line.contains(topic));
    assert!(named && line.contains("cannot be read"), "{line}");
    let mut command = kafscale(&["broker", "--data-dir", data]);
    command.args(SMALL_WAL).args(FREE_PORTS);
    let mut broker = Process::spawn_beside_with(command);
    let warned = broker.wait_for("a batch of the write-ahead log is damaged; the others are served");
    assert_eq!(warned["position"], 4160, "{warned}");
    let topic = warned["topic"].as_str().unwrap();
    assert!(
        line.contains(&format!("{topic}-{}, offsets {} to", warned["partition"], warned["first_offset"])),
        "{line}"
    );
    broker.wait_for("ready");
    assert_eq!(broker.stop(Signal::TERM), Some(0));
}

/// The paths in the first column of the table of the data directory, with everything in braces standing for any name.
fn documented() -> Vec<Vec<String>> {
    let text = fs::read_to_string("../../docs/operations.md").unwrap();
    let (_, section) = text.split_once("\n## The data directory\n").unwrap();
    let rows =
        section.lines().skip_while(|line| !line.starts_with("| `")).take_while(|line| line.starts_with('|'));
    let paths =
        rows.flat_map(|row| row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2).collect::<Vec<_>>());
    paths.map(|path| path.split('/').map(str::to_owned).collect()).collect()
}

/// The files below a directory, some of which may be gone a moment later.
fn files(dir: &Path) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().map_while(Result::ok) {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(entry.path()),
                Ok(_) => found.push(entry.path()),
                Err(_) => {}
            }
        }
    }
    found
}

/// Whether a name is of a form such as `*.kfw`, `{topic}` or `LOCK`.
fn is_of(name: &str, form: &str) -> bool {
    match form.split_once('*') {
        Some((before, after)) => {
            name.len() >= form.len() - 1 && name.starts_with(before) && name.ends_with(after)
        }
        None => name == form || (form.starts_with('{') && form.ends_with('}')),
    }
}

#[test]
fn every_file_of_a_busy_directory_is_in_the_table() {
    let (parent, documented) = (TempDir::new().unwrap(), documented());
    assert!(documented.len() > 10, "{documented:?}");
    let dir = parent.path().join("data");
    let settings = ["--wal-file-bytes", "1MiB", "--wal-max-bytes", "2MiB", "--log-cleaner-backoff", "1s"];
    let mut kinds = std::collections::BTreeSet::new();
    let mut look = || {
        for path in files(&dir) {
            let path = path.strip_prefix(&dir).unwrap();
            let names: Vec<&str> = path.iter().map(|name| name.to_str().unwrap()).collect();
            let is_row = |row: &&Vec<String>| {
                row.len() == names.len() && row.iter().zip(&names).all(|(form, name)| is_of(name, form))
            };
            let row = documented.iter().find(is_row);
            kinds.insert(row.unwrap_or_else(|| panic!("{} is not in the table", path.display())));
        }
    };
    for orders in ["2000", "20"] {
        let mut command = kafscale(
            &[&["demo", "--mcp-http-addr", "127.0.0.1:0", "--orders-per-second", orders][..], &settings]
                .concat(),
        );
        command.arg("--data-dir").arg(&dir);
        let mut demo = Process::spawn(command);
        demo.wait_for("the sample workload is running");
        let until = std::time::Instant::now() + std::time::Duration::from_secs(8);
        while std::time::Instant::now() < until {
            look();
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        demo.stop(Signal::KILL);
        look();
    }
    let seen = |form: &str| kinds.iter().any(|row| row.last().is_some_and(|last| last == form));
    for form in ["*.kfw", "*.spare.tmp", "*.kfs", "*.json", "recovery-point", "kafscale.commits"] {
        assert!(seen(form), "no {form} was there: {kinds:?}");
    }
}
