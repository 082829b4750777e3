//! A program to put into test images. It does not need libraries.

/// Returns an ELF file with one segment. The program exits at once with the exit code 0. It runs on
/// the architecture that this crate is built for, which must be x86-64 or AArch64.
pub fn program_that_ends() -> Vec<u8> {
    const PLACE: u64 = 0x40_0000;
    const HEADERS: u64 = 0x78;
    #[cfg(target_arch = "x86_64")]
    let (machine, code) = (0x3e_u16, [0x31, 0xff, 0xb8, 0x3c, 0, 0, 0, 0x0f, 0x05]);
    #[cfg(target_arch = "aarch64")]
    let (machine, code) = (
        0xb7_u16,
        [0, 0, 0x80, 0xd2, 0xa8, 0x0b, 0x80, 0xd2, 1, 0, 0, 0xd4],
    );
    let length = HEADERS + code.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0".to_vec();
    file.extend(machine.to_le_bytes());
    file.extend(1_u32.to_le_bytes());
    // The entry, and the offsets of the program headers and the section headers.
    file.extend([PLACE + HEADERS, 0x40, 0].map(u64::to_le_bytes).concat());
    file.extend(0_u32.to_le_bytes());
    file.extend([0x40_u16, 0x38, 1, 0, 0, 0].map(u16::to_le_bytes).concat());
    // A loaded segment that is readable and executable.
    file.extend([1_u32, 5].map(u32::to_le_bytes).concat());
    file.extend(
        [0, PLACE, PLACE, length, length, 0x1000]
            .map(u64::to_le_bytes)
            .concat(),
    );
    file.extend(code);
    file
}
