//! What can be said of the units without starting them.

use std::fs;

use crate::machine::Machine;

#[test]
fn the_units_are_valid_and_expose_little() {
    let machine = Machine::boot();
    // What the manual pages are not there for.
    let verify = |words: &str| {
        machine.run(&format!("XDG_RUNTIME_DIR=/run systemd-analyze verify --man=no {words} 2>&1"))
    };
    assert_eq!(verify("lockfs.service lockfs@srv-ci.service"), "");
    assert_eq!(verify("--user /usr/lib/systemd/user/lockfs.service"), "");
    for unit in ["lockfs.service", "lockfs@srv-ci.service"] {
        machine.run(&format!("systemd-analyze security --threshold=40 {unit}"));
    }
}

#[test]
fn the_examples_are_valid() {
    let machine = Machine::boot();
    let example = |name: &str| {
        fs::read_to_string(format!("{}/systemd/examples/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    };
    machine.write("/usr/local/bin/deploy", "#!/bin/sh\ntest -e /locks/deploy\n");
    machine.run("chmod 755 /usr/local/bin/deploy");
    machine.write("/etc/systemd/system/deploy.service", &example("deploy.service"));
    machine.write("/etc/systemd/system/lockfs.service.d/network.conf", &example("network.conf"));
    machine.write("/etc/systemd/system/deploy.service.d/needs-locks.conf", &example("needs-locks.conf"));
    machine.run("systemctl daemon-reload");
    assert_eq!(machine.run("systemd-analyze verify --man=no deploy.service lockfs.service 2>&1"), "");
    machine.run("systemctl start deploy");
}
