package config

import (
	"errors"
	"strings"
)

// minBandwidth is the least limit in bytes a second: with less, an image of some
// MB takes hours, and what was meant is another unit.
const minBandwidth = 1 << 10

// ParseBandwidth reads a number of bytes a second such as "20MiB/s" or
// "160Mbit/s", where "/s" can be left out. Units of bytes are those of [ParseSize],
// those of bits are decimal: bit, kbit, Mbit, Gbit. There has to be one, since
// nobody knows what 20 is, and "Mb" means both. "0" is 0.
func ParseBandwidth(s string) (int64, error) {
	amount, _ := strings.CutSuffix(strings.TrimSpace(s), "/s")
	amount = strings.TrimSpace(amount)
	if amount == "0" {
		return 0, nil
	}
	per := int64(1)
	if at := len(amount) - len("bit"); at > 0 && strings.EqualFold(amount[at:], "bit") {
		amount, per = amount[:at]+"B", 8
	}
	if strings.Contains(amount, ",") {
		return 0, errors.New("is not a bandwidth: write it without comma, for example 1536KiB/s")
	}
	n, err := ParseSize(amount)
	if err != nil || !strings.HasSuffix(amount, "B") {
		return 0, errors.New("is not a bandwidth: write a number and a unit of bytes or bits, for example 20MiB/s or 160Mbit/s")
	}
	n /= per
	// What is not 0 must not become 0, which is no limit.
	if n < minBandwidth && strings.ContainsAny(amount, "123456789") {
		return 0, errors.New("is too little: write at least 1KiB/s, or 0 for no limit")
	}
	return n, nil
}
