//! The devices that a container may use, with cgroup v2: a small eBPF program on its group, for v2 has no devices
//! controller. Without it a container, which may make device nodes, could read the host's disks.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::Path,
};

// linux/bpf.h
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;
const BLOCK: u32 = 1;
const CHAR: u32 = 2;
const MKNOD: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;

/// A rule of v1's devices controller, `c 1:3 rwm`: what is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rule {
    kind: u32,
    major: Option<u32>,
    minor: Option<u32>,
    access: u32,
}

impl Rule {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let kind = match words.next()? {
            "b" => BLOCK,
            "c" => CHAR,
            _ => return None,
        };
        let (major, minor) = words.next()?.split_once(':')?;
        let number = |word: &str| match word {
            "*" => Some(None),
            _ => word.parse().ok().map(Some),
        };
        let access = words.next()?.chars().try_fold(0, |access, letter| match letter {
            'r' => Some(access | READ),
            'w' => Some(access | WRITE),
            'm' => Some(access | MKNOD),
            _ => None,
        })?;
        Some(Self { kind, major: number(major)?, minor: number(minor)?, access })
    }
}

/// One instruction: opcode, destination and source register, jump offset, constant.
fn instruction(code: u8, dst: u8, src: u8, offset: i16, constant: u32) -> u64 {
    u64::from(code)
        | u64::from(dst | src << 4) << 8
        | u64::from(offset as u16) << 16
        | u64::from(constant) << 32
}

const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xb4;
const MOVE_REGISTER: u8 = 0xbc;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const JUMP_IF_NOT: u8 = 0x55;
const JUMP_IF_NOT_REGISTER: u8 = 0x5d;
const EXIT: u8 = 0x95;

/// The program: 1 if any rule allows the access, else 0. Registers: 2 kind, 3 access, 4 major, 5 minor.
fn program(rules: &[Rule]) -> Vec<u64> {
    let mut code = vec![
        instruction(LOAD_WORD, 2, 1, 0, 0),
        instruction(MOVE_REGISTER, 3, 2, 0, 0),
        instruction(AND, 2, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, 3, 0, 0, 16),
        instruction(LOAD_WORD, 4, 1, 4, 0),
        instruction(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules {
        // Opcode, destination, source, constant. A test that fails jumps behind the rule.
        let mut steps = vec![
            (JUMP_IF_NOT, 2, 0, rule.kind),
            (MOVE_REGISTER, 0, 3, 0),
            (AND, 0, 0, rule.access),
            (JUMP_IF_NOT_REGISTER, 0, 3, 0),
        ];
        steps.extend(rule.major.map(|number| (JUMP_IF_NOT, 4, 0, number)));
        steps.extend(rule.minor.map(|number| (JUMP_IF_NOT, 5, 0, number)));
        steps.extend([(MOVE, 0, 0, 1), (EXIT, 0, 0, 0)]);
        let last = steps.len() - 1;
        code.extend(steps.into_iter().enumerate().map(|(position, (opcode, dst, src, constant))| {
            let jumps = matches!(opcode, JUMP_IF_NOT | JUMP_IF_NOT_REGISTER);
            let offset = if jumps { (last - position) as i16 } else { 0 };
            instruction(opcode, dst, src, offset, constant)
        }));
    }
    code.push(instruction(MOVE, 0, 0, 0, 0));
    code.push(instruction(EXIT, 0, 0, 0, 0));
    code
}

/// The kernel's `union bpf_attr`, as far as it is used here.
#[repr(C)]
struct LoadAttributes {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    rest: [u64; 12],
}

#[repr(C)]
struct AttachAttributes {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<i32> {
    // SAFETY: the kernel reads `size_of::<T>` bytes of a live value whose layout is that of bpf_attr.
    let outcome = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(outcome as i32) }
}

/// Allows the processes of a group only the devices of these rules. The filter goes with the group.
pub fn restrict(folder: &Path, rules: &[String]) -> io::Result<()> {
    let rules: Vec<Rule> = rules
        .iter()
        .map(|text| Rule::parse(text).ok_or_else(|| io::Error::other(format!("device rule {text:?}"))))
        .collect::<io::Result<_>>()?;
    let code = program(&rules);
    let license = c"Apache-2.0";
    let load = LoadAttributes {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        count: code.len() as u32,
        instructions: code.as_ptr() as u64,
        license: license.as_ptr() as u64,
        rest: [0; 12],
    };
    // SAFETY: the kernel has just made the descriptor for us.
    let program = unsafe { OwnedFd::from_raw_fd(bpf(BPF_PROG_LOAD, &load)?) };
    let group = File::open(folder)?;
    let attach = AttachAttributes {
        target: group.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        kind: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
    };
    bpf(BPF_PROG_ATTACH, &attach).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn rules_are_read_as_v1_writes_them() {
        let rule = Rule { kind: CHAR, major: Some(136), minor: None, access: READ | WRITE | MKNOD };
        assert_eq!(Rule::parse("c 136:* rwm"), Some(rule));
        assert_eq!(Rule::parse("b *:* m").map(|r| (r.kind, r.access)), Some((BLOCK, MKNOD)));
        for text in ["", "x 1:1 r", "c 1 r", "c 1:x r", "c 1:1 z"] {
            assert_eq!(Rule::parse(text), None, "{text}");
        }
    }

    /// A group that is gone with the test.
    struct Group(std::path::PathBuf);
    impl Drop for Group {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir(&self.0);
        }
    }

    #[test]
    fn the_kernel_takes_the_program_and_it_tells_devices_apart() {
        let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let unified = text.lines().find(|l| l.contains(" - cgroup2 ")).and_then(|l| l.split(' ').nth(4));
        let Some(unified) = unified else { return };
        let group = Group(Path::new(unified).join(format!("orlop-test-devices-{}", std::process::id())));
        std::fs::create_dir(&group.0).unwrap();
        let rules = ["c *:* m", "c 1:5 rwm", "c 1:8 r", "c 136:* rwm"].map(String::from);
        restrict(&group.0, &rules).unwrap();
        let script = "echo $$ > $0/cgroup.procs; t() { (eval \"$1\") 2>&- && echo yes || echo no; }; \
                      t ': < /dev/zero'; t ': > /dev/zero'; t ': < /dev/random'; t ': > /dev/random'; \
                      t ': < /dev/full'; t 'mknod /tmp/$$.node c 1 7'; rm -f /tmp/$$.node; t 'mknod /tmp/$$.node b 7 0'";
        let output = Command::new("sh").args(["-c", script]).arg(&group.0).output().unwrap();
        let answers = String::from_utf8(output.stdout).unwrap();
        let answers: Vec<&str> = answers.lines().collect();
        assert_eq!(answers, ["yes", "yes", "yes", "no", "no", "yes", "no"]);
    }
}
