//! What the kernel says of the settings in `system/kernel`.

use api::v1::{KernelMemoryState, KernelState, ZramSwap};

use crate::Machine;

/// The state part of `system/kernel`.
pub(crate) fn state(machine: &Machine) -> KernelState {
    let disk_size = machine.text("sys/block/zram0/disksize");
    let statistics = machine.text("sys/block/zram0/mm_stat");
    let zram_swap = disk_size.zip(statistics).and_then(|(disk_size, statistics)| zram_swap(&disk_size, &statistics));
    KernelState { memory: zram_swap.map(|zram_swap| KernelMemoryState { zram_swap: Some(zram_swap) }) }
}

/// From `disksize` and `mm_stat` (Documentation/admin-guide/blockdev/zram.rst):
/// the first three numbers are stored, compressed and used bytes.
fn zram_swap(disk_size: &str, statistics: &str) -> Option<ZramSwap> {
    let disk_size = disk_size.parse().ok()?;
    let mut numbers = statistics.split_ascii_whitespace().map(str::parse::<i64>);
    let mut next = || numbers.next()?.ok();
    let (stored, compressed_size, total_memory_use) = (next()?, next()?, next()?);
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
    let compression_ratio = if total_memory_use > 0 { stored as f64 / total_memory_use as f64 } else { 0.0 };
    Some(ZramSwap {
        disk_size,
        incompressed_size: stored,
        uncompressed_size: stored,
        compressed_size,
        total_memory_use,
        compression_ratio,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_of_the_kernel_are_read() {
        let swap =
            zram_swap("2147483648", " 1048576   262144   524288        0   524288        0        0        0        0")
                .unwrap();
        assert_eq!(
            (swap.disk_size, swap.incompressed_size, swap.uncompressed_size),
            (2_147_483_648, 1_048_576, 1_048_576)
        );
        assert_eq!((swap.compressed_size, swap.total_memory_use), (262_144, 524_288));
        assert!((swap.compression_ratio - 2.0).abs() < f64::EPSILON);
    }

    #[test]
    fn empty_device_has_a_ratio_that_is_a_number() {
        assert!(zram_swap("1", "0 0 0").unwrap().compression_ratio.abs() < f64::EPSILON);
    }

    #[test]
    fn unknown_forms_are_left_out() {
        for (disk_size, statistics) in [("", "1 2 3"), ("x", "1 2 3"), ("1", ""), ("1", "1 2"), ("1", "1 x 3")] {
            assert!(zram_swap(disk_size, statistics).is_none(), "{disk_size:?} {statistics:?}");
        }
    }
}
