package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/sirupsen/logrus"

	"registry-module/config"
)

// edgeFormatter writes the form that the modules of IoT Edge write, by whose levels the
// runtime can filter logs:
//
//	<6> 2026-01-31 12:00:00.000 +00:00 [INF] - message key=value
//
// An entry is one line, whatever is in it, with its fields in the order of their names.
type edgeFormatter struct{}

// edgeLevel returns the number of a level, which is that of syslog (RFC 5424 section
// 6.2.1), and its name.
func edgeLevel(level logrus.Level) (number int, name string) {
	switch level {
	case logrus.PanicLevel, logrus.FatalLevel:
		return 2, "CRIT"
	case logrus.ErrorLevel:
		return 3, "ERR"
	case logrus.WarnLevel:
		return 4, "WRN"
	case logrus.InfoLevel:
		return 6, "INF"
	default:
		return 7, "DBG"
	}
}

// Format implements [logrus.Formatter].
func (edgeFormatter) Format(entry *logrus.Entry) ([]byte, error) {
	b := entry.Buffer
	if b == nil {
		b = new(bytes.Buffer)
	}
	number, name := edgeLevel(entry.Level)
	fmt.Fprintf(b, "<%d> %s [%s] - %s", number, entry.Time.Format("2006-01-02 15:04:05.000 -07:00"), name, escaped(entry.Message))
	for _, key := range slices.Sorted(maps.Keys(entry.Data)) {
		fmt.Fprintf(b, " %s=%s", quoted(key), quoted(fieldText(entry.Data[key])))
	}
	if entry.Logger != nil && entry.Logger.ReportCaller && entry.Caller != nil {
		fmt.Fprintf(b, " func=%s", quoted(entry.Caller.Function))
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}

// fieldText returns the value of a field.
func fieldText(value any) string {
	if text, ok := value.([]byte); ok {
		return string(text)
	}
	return fmt.Sprint(value)
}

// escaped returns s with escapes, as in Go, in place of what is not printable.
func escaped(s string) string {
	if strings.IndexFunc(s, notPrintable) < 0 {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		if notPrintable(r) {
			q := strconv.Quote(s[:size])
			b.WriteString(q[1 : len(q)-1])
		} else {
			b.WriteString(s[:size])
		}
		s = s[size:]
	}
	return b.String()
}

// notPrintable is also true for what takes the place of bytes that are no text.
func notPrintable(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }

// quoted returns s, in quotes where it would not end at the next space.
func quoted(s string) string {
	if s == "" || strings.ContainsAny(s, ` "=\`) || strings.IndexFunc(s, notPrintable) >= 0 {
		return strconv.Quote(s)
	}
	return s
}

// reasonError is why the server has ended, which is the last line of its log.
type reasonError struct {
	error
	log configuration.Log
}

func (e reasonError) Unwrap() error { return e.error }

// inFormOf has err told in the form of the log of who was to serve by cfg, which is nil
// where err is why it could not be read.
func inFormOf(cfg *config.Config, err error) error {
	if err == nil {
		return nil
	}
	if cfg != nil {
		return reasonError{err, cfg.Stock.Log}
	}
	if errs, ok := errors.AsType[*config.Errors](err); ok {
		return reasonError{err, configuration.Log{Formatter: errs.LogFormatter}}
	}
	return err
}

// tell says why the program ends: where it was to serve and its log is in a form for
// machines, as the last line of that, otherwise in the form for people.
func tell(stdout, stderr io.Writer, err error) {
	reason, ok := errors.AsType[reasonError](err)
	if !ok || reason.log.Formatter == "" || reason.log.Formatter == "text" {
		_, _ = fmt.Fprintf(stderr, "registry-module: %v\n", err) // there is nobody else to tell
		return
	}
	l := logrus.New()
	l.SetOutput(stdout)
	l.SetFormatter(logFormatter(reason.log))
	l.WithFields(reason.log.Fields).Log(logrus.FatalLevel, "registry-module ends: "+joinLines(err.Error()))
}

// joinLines makes one line of an error of several.
func joinLines(text string) string {
	var joined string
	for line := range strings.SplitSeq(text, "\n") {
		switch line = strings.TrimSpace(line); {
		case line == "":
		case joined == "":
			joined = line
		case strings.HasSuffix(joined, ":"):
			joined += " " + line
		default:
			joined += "; " + line
		}
	}
	return joined
}
