//! The files for systemd, judged by systemd's own tools: nothing in them is unknown to it, the sandbox is
//! as tight as the unit claims, and the account and the folders really come out.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// What `systemd-analyze security` may find at most, out of ten; a unit without any sandbox has 9.6.
const EXPOSURE: f64 = 1.5;

#[test]
fn the_unit_says_nothing_that_systemd_does_not_know() {
    let unit = Unit::of_this_build();
    assert_clean(&unit.verify());
}

#[test]
fn the_drop_in_for_file_stores_fits_the_unit() {
    let unit = Unit::of_this_build();
    unit.add_drop_in(&shipped("file-stores.conf.example"));
    assert_clean(&unit.verify());

    // All that it offers, with the optional lines switched on.
    let optional =
        |line: &str| line.starts_with('#') && !line.starts_with("# ") && line.contains('=');
    let all: Vec<_> = shipped("file-stores.conf.example")
        .lines()
        .map(|line| if optional(line) { line[1..].to_owned() } else { line.to_owned() })
        .collect();
    assert!(all.contains(&"ProtectHome=tmpfs".to_owned()), "nothing was switched on");
    unit.add_drop_in(&all.join("\n"));
    assert_clean(&unit.verify());
}

#[test]
fn what_is_wrong_with_a_unit_would_be_seen() {
    let unit = Unit::of_this_build();
    unit.add_drop_in("[Service]\nReadWritePath=/srv\n");
    assert!(text(&unit.verify()).contains("Unknown key 'ReadWritePath'"));

    let unit = Unit::of_this_build();
    unit.add_drop_in("[Service]\nExecStart=\nExecStart=/nowhere/expunged daemon\n");
    assert!(text(&unit.verify()).contains("/nowhere/expunged"));

    let unit = Unit::of_this_build();
    let before = unit.exposure();
    unit.add_drop_in("[Service]\nProtectSystem=no\nPrivateDevices=no\n");
    assert!(unit.exposure() > before);
}

#[test]
fn the_sandbox_is_tight_and_a_drop_in_keeps_it_so() {
    let unit = Unit::of_this_build();
    let exposure = unit.exposure();
    assert!(exposure <= EXPOSURE, "the unit's exposure is {exposure}, more than {EXPOSURE}");

    unit.add_drop_in(&shipped("file-stores.conf.example"));
    let exposure = unit.exposure();
    assert!(exposure <= EXPOSURE, "with file stores it is {exposure}, more than {EXPOSURE}");
}

/// The sandbox's score says nothing of these.
#[test]
fn the_unit_protects_what_it_deletes_and_stops_in_time() {
    let unit = shipped("expunged.service");
    let says = |line: &str| unit.lines().any(|found| found == line);

    assert!(says("Type=notify"), "Type=notify-reload needs systemd 253, Debian 12 has 252");
    assert!(says("ExecStart=/usr/bin/expunged daemon"));
    assert!(says("LimitCORE=0"), "a core dump is a copy of the data that is to be deleted");
    assert!(says("StateDirectoryMode=0700"));
    assert!(says("User=expunged"), "file stores grant permissions to a fixed user");
    assert!(says("TimeoutStopSec=45"), "more than the daemon's own 30 seconds");
}

#[test]
fn the_account_and_the_folders_come_out_as_written() {
    let machine = TempDir::new().expect("a temporary folder can be made");
    let at = |path: &str| machine.path().join(path.trim_start_matches('/'));
    for (folder, file) in [
        ("/usr/lib/sysusers.d", "expunged.sysusers.conf"),
        ("/usr/lib/tmpfiles.d", "expunged.tmpfiles.conf"),
        ("/etc", ""),
    ] {
        fs::create_dir_all(at(folder)).expect("folders can be made in there");
        if !file.is_empty() {
            write(&at(folder).join("expunged.conf"), &shipped(file));
        }
    }
    let root = format!("--root={}", machine.path().display());

    let planned = text(&run("systemd-sysusers", &[&root, "--dry-run"]));
    assert!(planned.contains("Creating user 'expunged'"), "{planned}");

    let made = run("systemd-sysusers", &[&root]);
    assert!(made.status.success(), "{}", text(&made));

    // Only root may hand a folder to another user; for others the file is at least read.
    let is_root = rustix::process::geteuid().is_root();
    assert_clean(&run("systemd-tmpfiles", &[&root, if is_root { "--create" } else { "--clean" }]));

    let accounts = fs::read_to_string(at("/etc/passwd")).expect("an account was made");
    let account: Vec<_> = accounts.trim().split(':').collect();
    let [name, _, uid, gid, _, home, shell] = account[..] else { panic!("{accounts}") };
    assert_eq!((name, home), ("expunged", "/var/lib/expunged"));
    assert!(shell.ends_with("/nologin"), "{shell}");

    if !is_root {
        return;
    }
    for (path, mode, belongs_to_daemon) in [
        ("/etc/expunged", 0o755, false),
        ("/etc/expunged/conf.d", 0o755, false),
        ("/etc/expunged/credentials", 0o700, false),
        ("/var/lib/expunged", 0o700, true),
    ] {
        let found = fs::metadata(at(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        let owner = if belongs_to_daemon { (uid, gid) } else { ("0", "0") };
        assert_eq!(found.permissions().mode() & 0o7777, mode, "{path}");
        assert_eq!((&*found.uid().to_string(), &*found.gid().to_string()), owner, "{path}");
    }
}

// --- a copy to try things on ----------------------------------------------------------------------

/// The shipped unit in a folder of its own. The one change is the path to the binary, which is not
/// installed here and which systemd wants to see.
struct Unit {
    folder: TempDir,
}

impl Unit {
    fn of_this_build() -> Self {
        let unit = shipped("expunged.service");
        let installed = "ExecStart=/usr/bin/expunged ";
        assert_eq!(unit.matches(installed).count(), 1);
        let built = format!("ExecStart={} ", env!("CARGO_BIN_EXE_expunged"));

        let folder = TempDir::new().expect("a temporary folder can be made");
        write(&folder.path().join("expunged.service"), &unit.replace(installed, &built));
        Self { folder }
    }

    fn add_drop_in(&self, text: &str) {
        let folder = self.folder.path().join("expunged.service.d");
        fs::create_dir_all(&folder).expect("folders can be made in there");
        write(&folder.join("file-stores.conf"), text);
    }

    fn path(&self) -> String {
        self.folder.path().join("expunged.service").display().to_string()
    }

    // Not other units' errors, which are the machine's own matter.
    fn verify(&self) -> Output {
        let arguments = ["verify", "--man=no", "--recursive-errors=no", &self.path()];
        run("systemd-analyze", &arguments)
    }

    fn exposure(&self) -> f64 {
        let arguments = ["security", "--offline=true", "--no-pager", &self.path()];
        let output = run("systemd-analyze", &arguments);
        let text = text(&output);
        let words = text.split_once("Overall exposure level for expunged.service: ");
        let number = words.and_then(|(_, rest)| rest.split_whitespace().next());
        number
            .and_then(|number| number.parse().ok())
            .unwrap_or_else(|| panic!("no level in: {text}"))
    }
}

fn shipped(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("systemd").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).expect("the temporary folder can be written to");
}

// A test that skips itself looks like one that passed, so a missing tool is a failure.
fn run(tool: &str, arguments: &[&str]) -> Output {
    match Command::new(tool).args(arguments).env("LC_ALL", "C.UTF-8").output() {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            panic!(
                "{tool} is missing: run the tests through tests/run, or `apt-get install systemd`"
            )
        }
        Err(error) => panic!("{tool}: {error}"),
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn assert_clean(output: &Output) {
    assert!(output.status.success() && text(output).is_empty(), "{}", text(output));
}
