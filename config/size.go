package config

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
)

// ParseSize reads a number of bytes such as "20GiB" or "500MB": a number, and a
// unit that is decimal (kB, MB, GB, TB) or binary (KiB, MiB, GiB, TiB). A
// number without unit is bytes.
func ParseSize(s string) (int64, error) {
	// The library drops commas, which are decimal points to half of the
	// world: 1,5GB is not 15 GB.
	if strings.ContainsAny(s, ",") {
		return 0, errors.New("is not a size: write it without comma, for example 1536MiB")
	}
	n, err := humanize.ParseBytes(strings.TrimSpace(s))
	if err != nil {
		return 0, errors.New("is not a size: write a number and a unit, for example 20GiB or 500MB")
	}
	if n > math.MaxInt64 {
		return 0, errors.New("is too large a size")
	}
	return int64(n), nil
}

// Amount is an amount of storage: a number of bytes, or a share of the whole.
// The zero Amount is nothing.
type Amount struct {
	// Bytes is the amount where Percent is 0.
	Bytes int64
	// Percent is a share of the whole, from 0 to below 100.
	Percent float64
}

// ParseAmount reads a size, as [ParseSize] does, or a percentage such as "10%".
func ParseAmount(s string) (Amount, error) {
	number, isPercent := strings.CutSuffix(strings.TrimSpace(s), "%")
	if !isPercent {
		n, err := ParseSize(s)
		if err != nil {
			return Amount{}, fmt.Errorf("%w, or a percentage, for example 10%%", err)
		}
		return Amount{Bytes: n}, nil
	}
	percent, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	// Not a comparison with >=, which NaN would pass.
	if err != nil || !(percent >= 0 && percent < 100) {
		return Amount{}, errors.New("is not a percentage from 0% to below 100%: write for example 10%")
	}
	return Amount{Percent: percent}, nil
}

// Of returns the amount in bytes, where whole is the size of the whole in
// bytes.
func (a Amount) Of(whole int64) int64 {
	if a.Percent == 0 {
		return a.Bytes
	}
	return int64(float64(whole) / 100 * a.Percent)
}

// String returns the amount in a form that [ParseAmount] reads.
func (a Amount) String() string {
	if a.Percent != 0 {
		return strconv.FormatFloat(a.Percent, 'f', -1, 64) + "%"
	}
	return strconv.FormatInt(a.Bytes, 10) + "B"
}
