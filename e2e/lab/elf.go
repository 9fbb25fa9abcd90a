package lab

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
)

// ExitProgram is a static program for Linux on an architecture of Go's naming
// that ends at once with status 0: enough for an image that really runs, on
// every platform, without a compiler.
func ExitProgram(arch string) ([]byte, error) {
	const base = 0x10000 // where the file is mapped, whole
	var code []byte
	var header any
	segment := elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: base, Paddr: base, Align: 0x1000}
	switch arch {
	case "amd64":
		// xor edi,edi; mov eax,60 (exit); syscall
		code = []byte{0x31, 0xff, 0xb8, 60, 0, 0, 0, 0x0f, 0x05}
	case "arm64":
		// mov x0,#0; mov x8,#93 (exit); svc #0
		code = words(0xd2800000, 0xd2800ba8, 0xd4000001)
	case "arm":
		// mov r0,#0; mov r7,#1 (exit); svc #0
		code = words(0xe3a00000, 0xe3a07001, 0xef000000)
	default:
		return nil, fmt.Errorf("no program for %s", arch)
	}

	if arch == "arm" {
		const size = 52 + 32
		header = struct {
			elf.Header32
			elf.Prog32
		}{
			elf.Header32{
				Ident: ident(elf.ELFCLASS32), Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_ARM), Version: 1,
				Entry: base + size, Phoff: 52, Flags: 0x05000000 /* EABI 5 */, Ehsize: 52, Phentsize: 32, Phnum: 1,
			},
			elf.Prog32{
				Type: segment.Type, Flags: segment.Flags, Vaddr: base, Paddr: base, Align: 0x1000,
				Filesz: uint32(size + len(code)), Memsz: uint32(size + len(code)),
			},
		}
	} else {
		const size = 64 + 56
		machine := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[arch]
		segment.Filesz = uint64(size + len(code))
		segment.Memsz = segment.Filesz
		header = struct {
			elf.Header64
			elf.Prog64
		}{
			elf.Header64{
				Ident: ident(elf.ELFCLASS64), Type: uint16(elf.ET_EXEC), Machine: uint16(machine), Version: 1,
				Entry: base + size, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
			},
			segment,
		}
	}
	var b bytes.Buffer
	if err := binary.Write(&b, binary.LittleEndian, header); err != nil {
		return nil, fmt.Errorf("writing a program for %s: %w", arch, err)
	}
	b.Write(code)
	return b.Bytes(), nil
}

func ident(class elf.Class) (id [16]byte) {
	copy(id[:], elf.ELFMAG)
	id[elf.EI_CLASS] = byte(class)
	id[elf.EI_DATA] = byte(elf.ELFDATA2LSB)
	id[elf.EI_VERSION] = byte(elf.EV_CURRENT)
	return id
}

func words(ws ...uint32) (b []byte) {
	for _, w := range ws {
		b = binary.LittleEndian.AppendUint32(b, w)
	}
	return b
}
