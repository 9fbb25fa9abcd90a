package lab

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// leases issues signed texts that are good for a while, as tokens and signed URLs
// are.
type leases struct {
	life time.Duration
	key  []byte
}

func newLeases(life time.Duration) *leases {
	return &leases{life: life, key: []byte(rand.Text())}
}

// issue returns a text that is good for what subject says, from now on.
func (l *leases) issue(subject string) string {
	expires := strconv.FormatInt(time.Now().Add(l.life).UnixNano(), 10)
	return expires + "." + l.sign(subject, expires)
}

// check tells what is wrong with a text, nil where it is still good.
func (l *leases) check(subject, lease string) error {
	expires, signature, _ := strings.Cut(lease, ".")
	if !hmac.Equal([]byte(signature), []byte(l.sign(subject, expires))) {
		return fmt.Errorf("not issued for %q", subject)
	}
	nanos, err := strconv.ParseInt(expires, 10, 64)
	if err != nil {
		return err
	}
	if late := time.Since(time.Unix(0, nanos)); late >= 0 {
		return fmt.Errorf("expired %v ago", late)
	}
	return nil
}

func (l *leases) sign(subject, expires string) string {
	mac := hmac.New(sha256.New, l.key)
	fmt.Fprintf(mac, "%s %s", expires, subject)
	return hex.EncodeToString(mac.Sum(nil))
}
