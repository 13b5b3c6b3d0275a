//! What the documentation says to type, typed: on a machine that has had nothing of lockfs.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::document::{Block, blocks, commands};
use crate::machine::{DEV, Machine};
use crate::package;

/// A Redis on its usual port, as long as the machine runs.
fn start_redis(machine: &Machine) {
    machine.run("ip link set lo up; systemd-run --quiet --unit=a-redis redis-server --port 6379 --save ''");
    machine.run("until redis-cli ping >/dev/null 2>&1; do :; done");
}

/// Types a command; it ends with 0, or with a number that its comment names behind `# exit`.
#[track_caller]
fn types(machine: &Machine, command: &str) {
    let named = command.split_once("# exit ").map(|(_, rest)| rest).unwrap_or_default();
    let named = named.split(|c: char| !c.is_ascii_digit() && c != ' ').next().unwrap_or_default();
    let codes: Vec<i32> = named.split_whitespace().map(|code| code.parse().unwrap()).chain([0]).collect();
    let output = machine.command(&format!("cd /root; {command}")).output().unwrap();
    let code = output.status.code();
    let said = [output.stdout, output.stderr].concat();
    assert!(
        code.is_some_and(|code| codes.contains(&code)),
        "{command}: {code:?}\n{}",
        String::from_utf8_lossy(&said)
    );
}

#[test]
fn what_the_operations_page_says_to_type_runs() {
    let mut machine = package::installed();
    machine.run("cp /mnt/outside/lockfs.deb /root/; systemctl enable --now lockfs");
    start_redis(&machine);
    let mut holder = machine.command("lockfs run deploy -- sleep 1000").spawn().unwrap();
    machine.eventually("deploy is held", |machine| machine.path("/locks/deploy").exists());
    let blocks = blocks("docs/operations.md");
    let mut count = 0;
    for block in blocks.iter().filter(|block| block.kind == "sh") {
        for command in commands(block) {
            types(&machine, &command);
            count += 1;
        }
    }
    assert!(count > 40, "{count}");
    // What they were to come to.
    let status = machine.run("lockfs status");
    assert!(
        status.contains("\nbackend: leveldb\n") && status.contains("\nmetrics: http://127.0.0.1:9464/"),
        "{status}"
    );
    assert!(!machine.path("/locks/deploy").exists());
    holder.kill().unwrap();
    holder.wait().unwrap();
}

#[test]
fn the_operations_page_knows_every_error_and_every_exit_code() {
    let read = |path: &str| fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let page = read("docs/operations.md");
    let (errnos, cli) = (read("src/fuse/errno.rs"), read("src/cli.rs"));
    let names = errnos
        .split("Errno::")
        .skip(1)
        .map(|rest| rest.chars().take_while(char::is_ascii_uppercase).collect::<String>());
    for name in names.filter(|name| !name.is_empty()) {
        assert!(page.contains(&format!("`{name}`")), "{name}");
    }
    let numbers = cli.split("=> ").skip(1).filter_map(|rest| rest.split(',').next());
    let codes: Vec<u8> = numbers.filter_map(|number| number.parse().ok()).collect();
    assert!(codes.len() >= 7, "{codes:?}");
    for code in codes {
        assert!(page.contains(&format!("\n| {code} | ")), "{code}");
    }
}

/// Who follows the README.
struct Newcomer<'a> {
    machine: &'a Machine,
    /// What goes before each command: who they are, and where.
    prefix: String,
    /// Where their locks are, which the README calls /locks.
    locks: &'static str,
}

/// What is typed, how it may end besides well, and why.
const ENDINGS: [(&str, i32, &str); 3] = [
    ("lockfs watch", 124, "goes on until it is ended"),
    ("tail -f", 124, "goes on until it is ended"),
    ("lockfs break a", 1, "asks, and nobody answers here"),
];

impl Newcomer<'_> {
    #[track_caller]
    fn types(&self, typed: &str) -> String {
        let command =
            if self.locks == "/locks" { typed.to_owned() } else { typed.replace("/locks", self.locks) };
        // As in a terminal each command is a job of its own, and all are of one login.
        let script = format!("{}cd ~/lockfs; set -m; timeout 20 bash -c {}", self.prefix, quoted(&command));
        let shorter = ENDINGS.iter().any(|(start, code, _)| typed.starts_with(start) && *code == 124);
        let script = if shorter { script.replace("timeout 20", "timeout 2") } else { script };
        let output = self.machine.command(&script).output().unwrap();
        let code = output.status.code().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let may_end = |(start, other, _): &(&str, i32, &str)| typed.starts_with(start) && *other == code;
        assert!(code == 0 || ENDINGS.iter().any(may_end), "{command}: {code}\n{said}");
        said
    }

    fn follows(&self, block: &Block) {
        for command in commands(block) {
            self.types(&command);
        }
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// The files that a clone has, in /root/lockfs or in a home, and the words sudo and cargo: this machine has nobody to
/// become, and the program that is tested is built already.
fn clone_into(machine: &Machine, home: &str) {
    let root = env!("CARGO_MANIFEST_DIR");
    let list = Command::new("git")
        .args(["-C", root, "ls-files", "--cached", "--others", "--exclude-standard"])
        .output()
        .unwrap();
    assert!(list.status.success(), "{}", String::from_utf8_lossy(&list.stderr));
    fs::write(machine.outside("files"), list.stdout).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_lockfs"), machine.outside("lockfs")).unwrap();
    machine.write("/usr/local/bin/sudo", "#!/bin/sh\nexec \"$@\"\n");
    let cargo = Command::new("sh").args(["-c", "command -v cargo"]).output().unwrap();
    let cargo = String::from_utf8(cargo.stdout).unwrap();
    machine.write(
        "/usr/local/bin/cargo",
        &format!(
            "#!/bin/sh\n[ \"$1\" = build ] || exec {} \"$@\"\nmkdir -p target/release && cp /mnt/outside/lockfs target/release/\n",
            cargo.trim()
        ),
    );
    machine.run(&format!(
        "chmod 755 /usr/local/bin/*; mkdir -p {home}/lockfs && cd {home}/lockfs && \
         tar -C {root} -cf - -T /mnt/outside/files | tar -xf - && mkdir target && \
         if [ -d {root}/target/package-deps ]; then ln -s {root}/target/package-deps target/; fi; \
         git init -q && git remote add origin https://example.com/alice/project.git && \
         printf '#!/bin/sh\\n' >deploy.sh && cp deploy.sh read.sh && chmod 755 deploy.sh read.sh"
    ));
    assert!(Path::new(&machine.path(home)).join("lockfs/README.md").exists());
}

fn of<'a>(blocks: &'a [Block], heading: &str) -> Vec<&'a Block> {
    let found: Vec<_> =
        blocks.iter().filter(|block| block.heading == heading && block.kind == "sh").collect();
    assert!(!found.is_empty(), "the README has commands under '{heading}'");
    found
}

/// The opening of the README, with what it shows: names, numbers and times are others' each time.
fn follows_the_opening(newcomer: &Newcomer<'_>, blocks: &[Block]) {
    let block = blocks.iter().find(|block| block.kind == "console").unwrap();
    let (mut typed, mut shown): (Option<String>, Vec<&str>) = (None, Vec::new());
    let lines = block.lines.iter().map(String::as_str).chain(["$ true"]);
    for line in lines {
        let Some(next) = line.strip_prefix("$ ") else {
            shown.push(line);
            continue;
        };
        if let Some(command) = typed.replace(next.to_owned()) {
            // Somebody else: another login, whose lock it is not.
            let is_refused = command.contains("# somebody else");
            let command = if is_refused { format!("{command}\ntrue") } else { command };
            let said = newcomer.types(&command);
            let key = |line: &str| line.split(':').next().unwrap().to_owned();
            for line in shown.drain(..).filter(|line| *line != "...") {
                let exact = ["lock: ", "state: "].iter().any(|start| line.starts_with(start));
                let found = match (exact, is_refused) {
                    (true, _) => said.lines().any(|said| said == line),
                    (false, true) => said.contains("cannot overwrite existing file"),
                    (false, false) => said.lines().any(|said| key(said) == key(line)),
                };
                assert!(found, "{command}: no '{line}' in\n{said}");
            }
        }
    }
}

#[test]
fn a_newcomer_who_follows_the_readme_gets_what_it_says() {
    let machine = Machine::boot_bare();
    clone_into(&machine, "/root");
    start_redis(&machine);
    machine.run("echo 127.0.0.1 db.example >>/etc/hosts");
    let newcomer = Newcomer { machine: &machine, prefix: "export HOME=/root; ".to_owned(), locks: "/locks" };
    let blocks = blocks("README.md");
    let [install, attempt] = of(&blocks, "Start")[..] else { panic!("the README installs, and tries") };
    newcomer.follows(install);
    assert!(machine.is_mounted("/locks"));
    follows_the_opening(&newcomer, &blocks);
    let said = newcomer.types(&attempt.lines[0]);
    assert!(said.contains("/locks is mounted already"), "{said}");
    for heading in ["Use", "Wait", "Coding agents", "As a service", "Many machines"] {
        of(&blocks, heading).into_iter().for_each(|block| newcomer.follows(block));
    }
    assert!(machine.is_mounted("/srv/ci/locks") && machine.is_mounted("/root/cluster"));
    // Nothing with commands is left out.
    let followed = ["Start", "Use", "Wait", "Coding agents", "As a service", "Many machines"];
    for block in blocks.iter().filter(|block| block.kind == "sh") {
        assert!(followed.contains(&block.heading.as_str()), "nobody follows '{}'", block.heading);
    }
}

#[test]
fn a_newcomer_without_rights_gets_as_far() {
    let machine = Machine::boot_bare();
    clone_into(&machine, "/home/dev");
    machine.run("chown -R dev:dev /home/dev/lockfs");
    let path = "export PATH=/home/dev/lockfs/target/release:$PATH; ";
    let newcomer = Newcomer {
        machine: &machine,
        prefix: format!(
            "[ $(id -u) = 4711 ] || exec {DEV} BASH_ENV= bash -c \"$BASH_EXECUTION_STRING\"; {path}"
        ),
        locks: "/home/dev/locks",
    };
    let blocks = blocks("README.md");
    let attempt = of(&blocks, "Start")[1];
    let said = newcomer.types(&attempt.lines[0]);
    assert!(said.contains("/home/dev/locks is mounted."), "{said}");
    assert!(machine.is_mounted("/home/dev/locks"));
    follows_the_opening(&newcomer, &blocks);
    for heading in ["Use", "Wait", "Coding agents"] {
        of(&blocks, heading).into_iter().for_each(|block| newcomer.follows(block));
    }
    newcomer.types("lockfs umount /locks");
    assert!(!machine.is_mounted("/home/dev/locks"));
}
