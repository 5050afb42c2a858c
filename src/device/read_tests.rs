use super::*;

struct Machine(tempfile::TempDir);

impl Machine {
    fn new(files: &[(&str, &str)]) -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        for (path, text) in files {
            machine.has(path, text.as_bytes());
        }
        machine
    }

    fn has(&self, path: &str, bytes: &[u8]) {
        let path = self.0.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    fn root(&self) -> Root {
        Root::new(self.0.path())
    }
}

const PASS: Verdict = Verdict::Pass;
const FAIL: Verdict = Verdict::Fail;
const UNKNOWN: Verdict = Verdict::Unknown;

// [clause 8.2.4-f] test
#[test]
fn a_machine_that_says_nothing_passes_nothing() {
    let machine = Machine::new(&[]);
    let root = machine.root();
    for (verdict, found) in [
        root.secure_boot(),
        root.tpm(),
        root.measured_boot(&[(7, [0; 32])]),
        root.measured_boot(&[]),
        root.lockdown(),
        root.taint(),
        root.module_signing(),
        root.ima(),
        root.root_verity(),
        root.at_least("proc/sys/kernel/yama/ptrace_scope", 1, "none"),
        root.user_namespaces(),
        root.proc_mem(),
        root.core_dumps(Some(0)),
        root.swap(),
        root.cpu_flaws(),
    ] {
        assert_eq!(verdict, UNKNOWN, "{found}");
    }
}

#[test]
fn secure_boot_is_one_byte_and_setup_mode_is_no_protection() {
    const GUID: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";
    for (on, setup, verdict) in [(1u8, 0u8, PASS), (0, 0, FAIL), (1, 1, FAIL)] {
        let machine = Machine::new(&[]);
        machine.has(&format!("sys/firmware/efi/efivars/SecureBoot-{GUID}"), &[6, 0, 0, 0, on]);
        machine.has(&format!("sys/firmware/efi/efivars/SetupMode-{GUID}"), &[6, 0, 0, 0, setup]);
        assert_eq!(machine.root().secure_boot().0, verdict);
    }
    let short = Machine::new(&[]);
    short.has(&format!("sys/firmware/efi/efivars/SecureBoot-{GUID}"), &[6, 0, 0, 0]);
    assert_eq!(short.root().secure_boot().0, UNKNOWN);
}

#[test]
fn settings_are_read_as_the_kernel_writes_them() {
    type Look = fn(&Root) -> Found;
    let rows: &[(&str, &str, Look, Verdict)] = &[
        ("sys/class/tpm/tpm0/tpm_version_major", "2\n", Root::tpm, PASS),
        ("sys/class/tpm/tpm0/tpm_version_major", "1\n", Root::tpm, FAIL),
        ("sys/kernel/security/lockdown", "none [integrity] confidentiality\n", Root::lockdown, PASS),
        ("sys/kernel/security/lockdown", "[none] integrity confidentiality\n", Root::lockdown, FAIL),
        ("proc/sys/kernel/tainted", "0\n", Root::taint, PASS),
        ("proc/sys/kernel/tainted", "512\n", Root::taint, PASS),
        ("proc/sys/kernel/tainted", "4096\n", Root::taint, FAIL),
        ("proc/sys/kernel/tainted", "12289\n", Root::taint, FAIL),
        ("proc/sys/kernel/tainted", "x\n", Root::taint, UNKNOWN),
        ("sys/module/module/parameters/sig_enforce", "Y\n", Root::module_signing, PASS),
        ("proc/modules", "ext4 1 2 - Live 0x0\n", Root::module_signing, FAIL),
        ("proc/sys/kernel/modules_disabled", "1\n", Root::module_signing, PASS),
        ("sys/kernel/security/ima/violations", "0\n", Root::ima, PASS),
        ("sys/kernel/security/ima/violations", "3\n", Root::ima, FAIL),
        ("proc/sys/user/max_user_namespaces", "0\n", Root::user_namespaces, PASS),
        ("proc/sys/user/max_user_namespaces", "95000\n", Root::user_namespaces, FAIL),
        ("proc/cmdline", "quiet proc_mem.force_override=never\n", Root::proc_mem, PASS),
        (
            "proc/cmdline",
            "proc_mem.force_override=never proc_mem.force_override=always",
            Root::proc_mem,
            FAIL,
        ),
        ("proc/cmdline", "quiet\n", Root::proc_mem, FAIL),
        ("proc/swaps", "Filename Type Size Used Priority\n", Root::swap, PASS),
        ("proc/swaps", "Filename Type Size Used Priority\n/swapfile file 1 0 -2\n", Root::swap, FAIL),
        ("proc/swaps", "Filename Type Size Used Priority\n/dev/sda2 partition 1 0 -2\n", Root::swap, FAIL),
        ("proc/swaps", "Filename Type Size Used Priority\n/dev/zram0 partition 1 0 100\n", Root::swap, PASS),
        ("sys/devices/system/cpu/vulnerabilities/spectre_v2", "Mitigation: IBRS\n", Root::cpu_flaws, PASS),
        ("sys/devices/system/cpu/vulnerabilities/mds", "Vulnerable: Clear CPU\n", Root::cpu_flaws, FAIL),
        ("proc/self/mountinfo", "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n", Root::root_verity, FAIL),
    ];
    for (path, text, look, verdict) in rows {
        let (found, words) = look(&Machine::new(&[(path, text)]).root());
        assert_eq!(found, *verdict, "{path} {text:?}: {words}");
    }
}

#[test]
fn facts_that_take_two_files_take_both() {
    let swap = "Filename Type Size Used Priority\n/dev/dm-1 partition 1 0 -2\n";
    let crypt = Machine::new(&[("proc/swaps", swap), ("sys/block/dm-1/dm/uuid", "CRYPT-PLAIN-swap\n")]);
    assert_eq!(crypt.root().swap().0, PASS);
    let lvm = Machine::new(&[("proc/swaps", swap), ("sys/block/dm-1/dm/uuid", "LVM-abc\n")]);
    assert_eq!(lvm.root().swap().0, FAIL);
    let mounts = "1 0 254:0 / / ro - ext4 /dev/dm-0 ro\n2 1 0:5 / /proc rw - proc proc rw\n";
    let verity = Machine::new(&[
        ("proc/self/mountinfo", mounts),
        ("sys/dev/block/254:0/dm/uuid", "CRYPT-VERITY-1-root"),
    ]);
    assert_eq!(verity.root().root_verity().0, PASS);
    let debian =
        [("proc/sys/user/max_user_namespaces", "9"), ("proc/sys/kernel/unprivileged_userns_clone", "0")];
    assert_eq!(Machine::new(&debian).root().user_namespaces().0, PASS);
    let dumps = Machine::new(&[("proc/sys/fs/suid_dumpable", "0")]);
    assert_eq!(dumps.root().core_dumps(Some(0)).0, PASS);
    assert_eq!(dumps.root().core_dumps(Some(1)).0, FAIL);
    assert_eq!(dumps.root().core_dumps(None).0, FAIL);
    let pcr = Machine::new(&[("sys/class/tpm/tpm0/pcr-sha256/7", &"AB".repeat(32))]);
    assert_eq!(pcr.root().measured_boot(&[(7, [0xab; 32])]).0, PASS);
    assert_eq!(pcr.root().measured_boot(&[(7, [0xac; 32])]).0, FAIL);
    assert_eq!(pcr.root().measured_boot(&[(7, [0xab; 32]), (11, [0; 32])]).0, UNKNOWN);
}
