//! What the documentation says to type, typed: on a machine that has had nothing of lockfs.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::document::{Block, blocks, commands};
use crate::machine::{DEV, Machine};
use crate::package;

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
    machine.start_redis();
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

/// Who follows the README: one login, in which what is typed is a job each, as at a terminal.
struct Newcomer {
    shell: Child,
    says: BufReader<ChildStdout>,
    /// Where their locks are, which the README calls /locks.
    locks: &'static str,
}

/// What is printed behind what a command prints.
const END: &str = "# ended with ";

/// What is typed, how it may end besides well, and why.
const ENDINGS: [(&str, i32, &str); 3] = [
    ("lockfs watch", 124, "goes on until it is ended"),
    ("tail -f", 124, "goes on until it is ended"),
    ("lockfs break a", 64, "asks, and there is no terminal here"),
];

impl Newcomer {
    /// Logs in with a shell that `login` starts, in the clone of `home`.
    fn log_in(machine: &Machine, login: &str, home: &str, locks: &'static str) -> Self {
        let start = format!("cd {home}/lockfs; HOME={home} exec {login} bash -m 2>&1");
        let mut shell = machine.command(&start);
        let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let says = BufReader::new(shell.stdout.take().unwrap());
        let mut newcomer = Self { shell, says, locks };
        // The program as it was built, where none is installed; and no registry is asked for what is here.
        newcomer.types("export CARGO_NET_OFFLINE=true PATH=/usr/local/bin:$PATH:$PWD/target/release");
        newcomer
    }

    /// Types a command, and waits for it; returns what it printed.
    #[track_caller]
    fn types(&mut self, typed: &str) -> String {
        // Compressing well takes most of the time that a package takes, and is no part of the promise.
        let command = typed.replace("/locks", self.locks).replace("scripts/deb", "scripts/deb --fast");
        let endless = ENDINGS.iter().any(|(start, code, _)| typed.starts_with(start) && *code == 124);
        let limit = if endless { "timeout 2 " } else { "" };
        let stdin = self.shell.stdin.as_mut().unwrap();
        writeln!(stdin, "{limit}{command} </dev/null\necho \"{END}$?\"").unwrap();
        let mut said = String::new();
        loop {
            let start = said.len();
            assert_ne!(self.says.read_line(&mut said).unwrap(), 0, "{command}: the shell is gone: {said}");
            // What was printed last may have no line of its own.
            let Some(at) = said[start..].find(END) else { continue };
            let code: i32 = said[start + at + END.len()..].trim().parse().unwrap();
            said.truncate(start + at);
            let may_end = |(start, other, _): &(&str, i32, &str)| typed.starts_with(start) && *other == code;
            assert!(code == 0 || ENDINGS.iter().any(may_end), "{command}: {code}\n{said}");
            return said;
        }
    }

    fn follows(&mut self, block: &Block) {
        for command in commands(block) {
            self.types(&without_comment(&command));
        }
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

/// A command of one line without its comment.
fn without_comment(command: &str) -> String {
    match command.contains('\n') {
        true => command.to_owned(),
        false => command.split(" #").next().unwrap().trim_end().to_owned(),
    }
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
    // The machine has a /tmp of its own, and the sources may lie in the one out here.
    let (files, tar) = (machine.outside("files"), machine.outside("clone.tar"));
    let packed =
        Command::new("tar").args(["-C", root, "-T"]).arg(files).arg("-cf").arg(tar).status().unwrap();
    assert!(packed.success());
    let deps = Path::new(root).join("target/package-deps");
    if deps.exists() {
        let copied = Command::new("cp").arg("-r").arg(deps).arg(machine.outside("package-deps")).status();
        assert!(copied.unwrap().success());
    }
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
         tar -xf /mnt/outside/clone.tar && mkdir target && \
         if [ -d /mnt/outside/package-deps ]; then mv /mnt/outside/package-deps target/; fi; \
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
fn follows_the_opening([newcomer, other]: [&mut Newcomer; 2], blocks: &[Block]) {
    let block = blocks.iter().find(|block| block.kind == "console").unwrap();
    let (mut typed, mut shown): (Option<&str>, Vec<&str>) = (None, Vec::new());
    for line in block.lines.iter().map(String::as_str).chain(["$ true"]) {
        let Some(next) = line.strip_prefix("$ ") else {
            shown.push(line);
            continue;
        };
        if let Some(command) = typed.replace(next) {
            let said = match command.contains("# somebody else") {
                // Who may be refused.
                true => other.types(&format!("{} || true", without_comment(command))),
                false => newcomer.types(&without_comment(command)),
            };
            for line in shown.drain(..).filter(|line| *line != "...") {
                let key = line.split(':').next().unwrap();
                let found = match key {
                    "lock" | "state" => said.lines().any(|said| said == line),
                    "bash" => said.contains("/deploy: cannot overwrite existing file"),
                    _ => said.lines().any(|said| said.starts_with(&format!("{key}: "))),
                };
                assert!(found, "{command}: no '{line}' in\n{said}");
            }
        }
    }
}

/// The parts of the README that have commands to type.
const PARTS: [&str; 6] = ["Start", "Use", "Wait", "Coding agents", "As a service", "Many machines"];

#[test]
fn a_newcomer_who_follows_the_readme_gets_what_it_says() {
    let machine = Machine::boot_bare();
    clone_into(&machine, "/root");
    machine.start_redis();
    machine.run("echo 127.0.0.1 db.example >>/etc/hosts");
    let log_in = || Newcomer::log_in(&machine, "env", "/root", "/locks");
    let (mut newcomer, mut other) = (log_in(), log_in());
    let blocks = blocks("README.md");
    let [install, attempt] = of(&blocks, PARTS[0])[..] else { panic!("the README installs, and tries") };
    newcomer.follows(install);
    assert!(machine.is_mounted("/locks"));
    follows_the_opening([&mut newcomer, &mut other], &blocks);
    let said = newcomer.types(&without_comment(&attempt.lines[0]));
    assert!(said.contains("/locks is mounted already"), "{said}");
    for part in &PARTS[1..] {
        of(&blocks, part).into_iter().for_each(|block| newcomer.follows(block));
    }
    assert!(machine.is_mounted("/srv/ci/locks") && machine.is_mounted("/root/cluster"));
    for block in blocks.iter().filter(|block| block.kind == "sh") {
        assert!(PARTS.contains(&block.heading.as_str()), "nobody follows '{}'", block.heading);
    }
}

#[test]
fn a_newcomer_without_rights_gets_as_far() {
    let machine = Machine::boot_bare();
    clone_into(&machine, "/home/dev");
    machine.run("chown -R dev:dev /home/dev/lockfs");
    let log_in = || Newcomer::log_in(&machine, DEV, "/home/dev", "/home/dev/locks");
    let (mut newcomer, mut other) = (log_in(), log_in());
    let blocks = blocks("README.md");
    let attempt = of(&blocks, PARTS[0])[1];
    let said = newcomer.types(&without_comment(&attempt.lines[0]));
    assert!(said.contains("/home/dev/locks is mounted."), "{said}");
    assert!(machine.is_mounted("/home/dev/locks"));
    follows_the_opening([&mut newcomer, &mut other], &blocks);
    for part in &PARTS[1..4] {
        of(&blocks, part).into_iter().for_each(|block| newcomer.follows(block));
    }
    newcomer.types("lockfs umount /locks");
    assert!(!machine.is_mounted("/home/dev/locks"));
}
