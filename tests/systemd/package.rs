//! The Debian package: what is in it, and what happens when it is installed, upgraded, removed and purged.
//!
//! It is built of the program under test, as scripts/deb builds it of a release.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::machine::{DEV, Machine};

/// Builds the package into `directory`, as `lockfs.deb`.
fn build(directory: &Path) {
    let package = directory.join("lockfs.deb");
    let mut script = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/deb"));
    script.args(["--fast", "--with", env!("CARGO_BIN_EXE_lockfs"), "--output"]).arg(package);
    let output = script.output().unwrap();
    assert!(output.status.success(), "scripts/deb: {}", String::from_utf8_lossy(&output.stderr));
}

/// A machine that has had nothing of lockfs, with the package in /mnt/outside.
fn machine_with_package() -> Machine {
    let machine = Machine::boot_bare();
    build(&machine.outside(""));
    machine
}

/// The same with the package installed.
pub(crate) fn installed() -> Machine {
    let machine = machine_with_package();
    machine.run("dpkg -i /mnt/outside/lockfs.deb");
    machine
}

/// Makes a later version of the package: /mnt/outside/later.deb.
fn make_later(machine: &Machine) {
    machine.run(
        "cd /tmp && dpkg-deb -R /mnt/outside/lockfs.deb later && \
         sed -i 's/^Version: .*/Version: 99.0-1/' later/DEBIAN/control && \
         dpkg-deb -Znone -b later /mnt/outside/later.deb",
    );
}

fn main_pid(machine: &Machine) -> String {
    machine.property("lockfs", "MainPID")
}

/// That of the held lock.
const TOKEN: &str = "getfattr --only-values -n user.lock.token /locks/held";

/// A job that holds a lock until it is told to end, and keeps its directory in the mount.
const HOLD: &str = "mkdir -p /locks/dir; cd /locks/dir; echo mine >/locks/held; echo held >/mnt/outside/held; \
                    exec 8<>/mnt/outside/fifo; read -r _ <&8; rm /locks/held && echo released >/mnt/outside/released";

#[test]
fn the_package_is_what_debian_asks_for() {
    let directory = tempfile::tempdir().unwrap();
    build(directory.path());
    let package = directory.path().join("lockfs.deb");
    let output = Command::new("lintian")
        .args(["--fail-on", "error", "--suppress-tags", "initial-upload-closes-no-bugs", "--allow-root"])
        .arg(package)
        .output()
        .expect("this test needs lintian: run scripts/install-test-deps");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.is_empty(), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn an_installed_package_has_what_its_readers_look_for_and_starts_nothing() {
    let machine = installed();
    // Nothing is enabled or running, and nothing is where locks would be taken for files.
    assert_eq!(machine.said("systemctl is-enabled lockfs"), "disabled");
    assert_eq!(machine.said("systemctl is-active lockfs"), "inactive");
    assert!(!machine.path("/locks").exists());
    // Every page renders without a warning, and apropos(1) can read its first line.
    let pages = machine.run("dpkg -L lockfs | grep '/man/man[158]/.*gz$'");
    assert!(pages.lines().count() > 25, "{pages}");
    let render = "for page in $(dpkg -L lockfs | grep '/man/man[158]/.*gz$'); do \
                    MANWIDTH=80 LC_ALL=C.UTF-8 man --warnings -E UTF-8 -l -Tutf8 -Z $page 2>&1 >/dev/null; \
                    lexgrog $page >/dev/null || echo $page; done";
    assert_eq!(machine.run(render), "");
    for page in
        ["1 lockfs", "1 lockfs-mount", "5 lockfs.conf", "8 lockfs", "8 mount.lockfs", "8 mount.fuse.lockfs"]
    {
        let text = machine.run(&format!("MANPAGER=cat man {page}"));
        assert!(text.contains("SEE ALSO"), "{page}: {text}");
    }
    // What the units and pages point to is there.
    for unit in ["lockfs.service", "lockfs@x.service"] {
        assert_eq!(machine.run(&format!("systemd-analyze verify {unit} 2>&1")), "");
    }
    machine.run("test -x /usr/share/doc/lockfs/examples/git/pre-commit");
    machine.run("test -e /usr/share/doc/lockfs/examples/network.conf");
    // Completions, in whichever of the shells is here.
    let completions = "/usr/share/bash-completion/completions/lockfs";
    let complete = machine.run(&format!("source {completions}; complete -p lockfs"));
    assert!(complete.contains("-F _lockfs"), "{complete}");
    let offered = machine.run(&format!(
        "source {completions}; COMP_WORDS=(lockfs mount --back) COMP_CWORD=2; _lockfs lockfs --back mount; \
         echo ${{COMPREPLY[*]}}"
    ));
    assert_eq!(offered, "--backend");
    for (shell, file) in
        [("zsh", "zsh/vendor-completions/_lockfs"), ("fish", "fish/vendor_completions.d/lockfs.fish")]
    {
        machine.run(&format!("if command -v {shell}; then {shell} -n /usr/share/{file}; fi"));
        assert!(
            fs::read_to_string(machine.path(&format!("/usr/share/{file}"))).unwrap().contains("on-outage")
        );
    }
    // The program has no symbols that nobody needs.
    assert_eq!(machine.said("nm /usr/bin/lockfs"), "");
}

#[test]
fn an_installed_package_serves_locks_by_service_and_by_mount() {
    let mut machine = installed();
    machine.run("systemctl enable --now lockfs");
    assert_eq!(machine.run("ls /locks; stat -c %a /locks"), "1777");
    machine.run(&format!("{DEV} touch /locks/x"));
    machine.run(
        "mkdir /srv/more && mount -t lockfs lockfs /srv/more -o namespace=more,data-dir=/var/lib/lockfs-more",
    );
    assert!(machine.is_mounted("/srv/more"));
    // A setting is one line of the file.
    machine
        .run("sed -i 's/^#LOCKFS_TTL=.*/LOCKFS_TTL=1h/' /etc/lockfs/lockfs.conf; systemctl restart lockfs");
    let status = machine.run("cat /locks/.lockfs/status");
    assert!(status.contains("\nttl: 1h\n"), "{status}");
    machine.eventually("the lock is there", |machine| machine.path("/locks/x").exists());
}

#[test]
fn an_upgrade_keeps_held_locks_and_configuration_and_runs_the_new_program() {
    let mut machine = installed();
    make_later(&machine);
    machine.run("echo LOCKFS_TTL=1h >>/etc/lockfs/lockfs.conf; systemctl enable --now lockfs; mkfifo /mnt/outside/fifo");
    machine.run("systemctl start lockfs@srv-ci; touch /srv/ci/x");
    let mut holder = machine.command(HOLD).spawn().unwrap();
    machine.eventually("the lock is held", |machine| machine.outside("held").exists());
    let token = machine.run(TOKEN);
    machine.run("dpkg -i /mnt/outside/later.deb </dev/null");
    assert_eq!(machine.run("dpkg-query -W -f '${Version}' lockfs"), "99.0-1");
    for (unit, point) in [("lockfs", "/locks"), ("lockfs@srv-ci", "/srv/ci")] {
        assert_eq!(machine.property(unit, "ActiveState"), "active");
        assert!(machine.is_mounted(point));
        let pid = machine.property(unit, "MainPID");
        assert_eq!(machine.run(&format!("readlink /proc/{pid}/exe")), "/usr/bin/lockfs");
    }
    assert_eq!(machine.run(TOKEN), token);
    assert!(machine.path("/srv/ci/x").exists());
    assert!(machine.run("cat /locks/.lockfs/status").contains("\nttl: 1h\n"));
    assert!(machine.run("cat /etc/lockfs/lockfs.conf").contains("\nLOCKFS_TTL=1h"));
    assert_eq!(machine.run("systemctl is-enabled lockfs"), "enabled");
    // Its holder is its holder still.
    fs::write(machine.outside("fifo"), "\n").unwrap();
    holder.wait().unwrap();
    assert_eq!(fs::read_to_string(machine.outside("released")).unwrap(), "released\n");
    // Nor does an upgrade start what is stopped.
    machine.run("systemctl stop lockfs; dpkg -i /mnt/outside/later.deb");
    assert_eq!(machine.said("systemctl is-active lockfs"), "inactive");
    assert_eq!(main_pid(&machine), "0");
}

#[test]
fn a_removed_package_serves_nothing_and_a_purged_one_leaves_nothing() {
    let mut machine = installed();
    let files = "find /etc /usr /var/lib /locks -xdev -path '*lockfs*' -not -path '*/dpkg/*' 2>/dev/null; ls -d /locks";
    machine.run("systemctl enable --now lockfs lockfs@srv-ci; touch /locks/kept; mkdir '/srv/a b'");
    machine.run("mount -t lockfs lockfs '/srv/a b' -o namespace=fstab");
    machine.run("echo LOCKFS_TTL=1h >/etc/lockfs/srv-ci.conf");
    // Somebody works in it, who does not keep it from ending.
    let mut busy =
        machine.command("cd /locks; echo there >/mnt/outside/busy; exec sleep 1000").spawn().unwrap();
    machine.eventually("it is in use", |machine| machine.outside("busy").exists());
    machine.run("dpkg -r lockfs");
    busy.kill().unwrap();
    busy.wait().unwrap();
    for point in ["/locks", "/srv/ci", "/srv/a\\040b"] {
        assert!(!machine.is_mounted(point), "{point}");
    }
    assert_eq!(machine.said("pgrep -x lockfs"), "");
    assert!(machine.path("/etc/lockfs/lockfs.conf").exists() && !machine.path("/usr/bin/lockfs").exists());
    // It comes back as it was.
    machine.run("dpkg -i /mnt/outside/lockfs.deb; systemctl start lockfs lockfs@srv-ci");
    assert!(machine.path("/locks/kept").exists());
    assert!(machine.run("cat /srv/ci/.lockfs/status").contains("\nttl: 1h\n"));
    machine.run("dpkg --purge lockfs");
    assert_eq!(machine.said(files), "");
    assert_eq!(machine.said("systemctl is-enabled lockfs"), "");
    assert!(!machine.path("/locks").exists());
    machine.run("dpkg -i /mnt/outside/lockfs.deb && systemctl enable --now lockfs");
    assert_eq!(machine.run("ls /locks"), "");
    // Without a systemd, as in an image that is being built, it installs too.
    machine.run(
        "dpkg --purge lockfs; mv /run/systemd/system /run/systemd/hidden; dpkg -i /mnt/outside/lockfs.deb",
    );
    machine.run("dpkg --purge lockfs; mv /run/systemd/hidden /run/systemd/system");
}
