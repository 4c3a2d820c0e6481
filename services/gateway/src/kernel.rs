//! `debug/kernel`: the running kernel, its modules, and what the CPU can do.

use std::collections::BTreeMap;

use api::v1::{DebugKernel, KernelModule};

use crate::machine::Machine;

pub(crate) fn describe(machine: &Machine) -> DebugKernel {
    let names = rustix::system::uname();
    DebugKernel {
        version: names.release().to_string_lossy().into_owned(),
        architecture: names.machine().to_string_lossy().into_owned(),
        cpu_baseline: cpu_baseline().to_owned(),
        modules: modules(&machine.modules()),
    }
}

/// The highest x86-64 level of which this CPU has every feature (x86-64 psABI,
/// "Micro-Architecture Levels"), as the dynamic loader would find it. LAHF-SAHF
/// of level 2 is not asked for: every CPU with SSE4.2 has it.
#[cfg(target_arch = "x86_64")]
fn cpu_baseline() -> &'static str {
    macro_rules! has {
        ($($feature:tt)*) => { true $(&& std::arch::is_x86_feature_detected!($feature))* };
    }
    let v2 = has!("cmpxchg16b" "popcnt" "sse3" "sse4.1" "sse4.2" "ssse3");
    let v3 = v2 && has!("avx" "avx2" "bmi1" "bmi2" "f16c" "fma" "lzcnt" "movbe");
    let v4 = v3 && has!("avx512f" "avx512bw" "avx512cd" "avx512dq" "avx512vl");
    match (v2, v3, v4) {
        (.., true) => "x86_64_v4",
        (_, true, _) => "x86_64_v3",
        (true, ..) => "x86_64_v2",
        _ => "x86_64_v1",
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn cpu_baseline() -> &'static str {
    ""
}

/// Reads `/proc/modules`: name, size, references, who needs it, state, address.
fn modules(text: &str) -> Vec<KernelModule> {
    let mut modules = BTreeMap::<&str, KernelModule>::new();
    for line in text.lines() {
        let mut columns = line.split_ascii_whitespace();
        let (Some(name), Some(_), Some(references), Some(users)) =
            (columns.next(), columns.next(), columns.next(), columns.next())
        else {
            continue;
        };
        let module = modules.entry(name).or_default();
        module.name = name.to_owned();
        module.in_use = references != "0";
        // `[permanent]` stands in the same column, and `-` for nobody.
        for user in users.split(',').filter(|user| !matches!(*user, "" | "-") && !user.starts_with('[')) {
            modules.entry(user).or_default().dependencies.push(name.to_owned());
        }
    }
    modules.retain(|_, module| !module.name.is_empty());
    let mut modules: Vec<_> = modules.into_values().collect();
    modules.iter_mut().for_each(|module| module.dependencies.sort_unstable());
    modules
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULES: &str = "\
zfs 6656000 12 - Live 0x0000000000000000 (POE)
spl 192512 1 zfs, Live 0x0000000000000000 (OE)
vhost 65536 2 vhost_vsock,vhost_net, Live 0x0000000000000000
vhost_net 36864 0 - Live 0x0000000000000000
vhost_vsock 28672 0 - Live 0x0000000000000000
tap 32768 1 vhost_net, Live 0x0000000000000000
efivarfs 28672 1 [permanent], Live 0x0000000000000000
broken
";

    #[test]
    fn modules_are_sorted_and_know_what_they_need() {
        let modules = modules(MODULES);
        let names: Vec<_> = modules.iter().map(|module| module.name.as_str()).collect();
        assert_eq!(names, ["efivarfs", "spl", "tap", "vhost", "vhost_net", "vhost_vsock", "zfs"]);
        let find = |name| modules.iter().find(|module| module.name == name).unwrap();
        assert_eq!(find("vhost_net").dependencies, ["tap", "vhost"]);
        assert_eq!(find("zfs").dependencies, ["spl"]);
        assert!(find("spl").dependencies.is_empty() && find("efivarfs").dependencies.is_empty());
        assert!(find("zfs").in_use && !find("vhost_net").in_use);
    }

    #[test]
    fn without_modules_the_list_is_empty() {
        assert_eq!(modules(""), []);
    }
}
