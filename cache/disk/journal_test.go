package disk

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/internal/durable"
)

const testHeader = "partial 1 sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 262144 6f3c-boot\n"

func TestParseJournal(t *testing.T) {
	empty := digest.FromString("")
	for name, tt := range map[string]struct {
		text string
		want journal
	}{
		"nothing known": {testHeader, journal{digest: empty, boot: "6f3c-boot"}},
		"boot not known": {
			strings.Replace(testHeader, "6f3c-boot", "-", 1),
			journal{digest: empty},
		},
		"all": {
			testHeader + "note \"a\\n\"\n0 262144 0000abcd\n524288 1 ffffffff\n",
			journal{empty, "6f3c-boot", []byte("a\n"), []record{{0, 262144, 0xabcd}, {524288, 1, 0xffffffff}}},
		},
		"any order": {
			testHeader + "524288 1 ffffffff\n0 262144 0000abcd\n",
			journal{empty, "6f3c-boot", nil, []record{{0, 262144, 0xabcd}, {524288, 1, 0xffffffff}}},
		},
		"the last note counts": {
			testHeader + "note \"a\"\nnote \"\"\n",
			journal{empty, "6f3c-boot", []byte{}, nil},
		},
		"the longest record counts, of two the later": {
			testHeader + "0 1 00000001\n0 9 00000009\n0 9 0000000a\n0 5 00000005\n",
			journal{empty, "6f3c-boot", nil, []record{{0, 9, 10}}},
		},
		"torn at the end": {
			testHeader + "0 262144 0000abcd\n262144 262144 0000abcd",
			journal{empty, "6f3c-boot", nil, []record{{0, 262144, 0xabcd}}},
		},
		"torn between": {
			testHeader + "note \"a\nnote `a`\nnote 'a'\n2621\n\n262144 262144 0000abcd\n\x00\x00\x00\n\x00\x00144 1 00000000\n",
			journal{empty, "6f3c-boot", nil, []record{{262144, 262144, 0xabcd}}},
		},
		"numbers that cannot be": {
			testHeader + "-262144 1 00000000\n1 1 00000000\n0 0 00000000\n0 262145 00000000\n0 1 0000000\n0 1 000000000\n" +
				"0 1 0x000000\n0 1 00000000 \n0  1 00000000\n0 +1 00000000\n9223372036854513664 262144 00000000\n" +
				"9223372036854775808 1 00000000\n0 1 00000000\r\n",
			journal{digest: empty, boot: "6f3c-boot"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseJournal([]byte(tt.text))
			if len(got.records) == 0 {
				got.records = nil
			}
			if err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("%+v, %v, want %+v", got, err, tt.want)
			}
		})
	}
	for name, text := range map[string]string{
		"empty":           "",
		"torn header":     testHeader[:len(testHeader)-1],
		"other version":   strings.Replace(testHeader, "partial 1", "partial 2", 1),
		"other part size": strings.Replace(testHeader, "262144", "1048576", 1),
		"no digest":       strings.Replace(testHeader, "sha256:e3", "sha256:..", 1),
		"zeros":           strings.Repeat("\x00", 4096),
		"too long":        testHeader + strings.Repeat("\n", maxJournal),
		"no line":         strings.Repeat("x", 4096),
		"more fields":     strings.Replace(testHeader, "\n", " x\n", 1),
		"something else":  "note \"a\"\n",
		"no boot id":      strings.Replace(testHeader, " 6f3c-boot", "", 1),
	} {
		if j, err := parseJournal([]byte(text)); err == nil {
			t.Errorf("%s: %+v", name, j)
		}
	}
}

// What an operator sees in the file.
func TestFormatJournal(t *testing.T) {
	j := journal{digest.FromString(""), "6f3c-boot", []byte("a\n\xff\""), []record{{0, 262144, 0xabcd}, {524288, 1, 0xffffffff}}}
	want := testHeader + "note \"a\\n\\xff\\\"\"\n0 262144 0000abcd\n524288 1 ffffffff\n"
	if got := string(j.format()); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	j = journal{digest: digest.FromString(""), boot: "not an id\n"}
	if got, want := string(j.format()), strings.Replace(testHeader, "6f3c-boot", "-", 1); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func FuzzJournal(f *testing.F) {
	f.Add([]byte(testHeader + "note \"a\"\n0 262144 0000abcd\n524288 1 ffffffff\n"))
	f.Add([]byte(testHeader + "524288 1 ffffffff\n524288 2 ffffffff\n0 9 0000000a\n\x00\x00"))
	f.Add([]byte("partial 1 sha512:"))
	f.Fuzz(func(t *testing.T, data []byte) {
		j, err := parseJournal(data)
		if err != nil {
			return
		}
		last := int64(0)
		for i, r := range j.records {
			if r.offset < last || r.offset%cache.PartSize != 0 || r.length == 0 || r.length > cache.PartSize || r.end() <= r.offset {
				t.Errorf("record %d of %v is out of order, or out of bounds", i, j.records)
			}
			last = r.offset + cache.PartSize
		}
		again, err := parseJournal(j.format())
		if err != nil || again.digest != j.digest || again.boot != j.boot || !bytes.Equal(again.note, j.note) ||
			(again.note == nil) != (j.note == nil) || len(again.records) != len(j.records) ||
			len(j.records) > 0 && !reflect.DeepEqual(again.records, j.records) {
			t.Errorf("%+v becomes %+v, %v", j, again, err)
		}
	})
}

// A journal never becomes one that is refused for its length.
func TestJournalIsFull(t *testing.T) {
	name := filepath.Join(t.TempDir(), "journal")
	file, err := durable.OS{}.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := file.Close(); err != nil {
			t.Error(err)
		}
	}()
	l := &log{file: file, size: maxJournal - 5, fresh: true}
	if err := l.write([]byte("abcde")); !errors.Is(err, errJournalFull) { // with the line break before it
		t.Errorf("error %v, want that it is full", err)
	}
	if err := l.write([]byte("a")); !errors.Is(err, errJournalFull) {
		t.Errorf("error %v afterwards", err)
	}
	l = &log{file: file, size: maxJournal - 5, fresh: true}
	if err := l.write([]byte("abcd")); err != nil || l.size != maxJournal {
		t.Errorf("size %d, %v", l.size, err)
	}
	if got, err := os.ReadFile(name); err != nil || string(got) != "\nabcd" {
		t.Errorf("written %q, %v", got, err)
	}
}
