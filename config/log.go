package config

import (
	"strconv"
	"strings"

	"github.com/distribution/distribution/v3/configuration"
)

// runtimeLevelVariable is what the IoT Edge runtime tells modules to log.
const runtimeLevelVariable = "RuntimeLogLevel"

func (l *loader) finishLog(doc *document, c *Config) {
	// Loglevel is the old name of log.level.
	if doc.Log.Level == "" {
		doc.Log.Level = doc.Loglevel
	}
	if doc.Log.Level == "" {
		doc.Log.Level = l.levelOfRuntime()
	}
	switch doc.Log.Formatter {
	case "", "text", "json", "logstash", "iotedge":
		l.logFormatter = doc.Log.Formatter
	default:
		l.bad("log.formatter", doc.Log.Formatter, "is not a log format: write text, json, logstash or iotedge")
	}
	c.SampleRequests = l.share("log.accesslog.sample", doc.Log.AccessLog.Sample)
}

// share reads a part of 1, which is 0 where nothing is written.
func (l *loader) share(key, text string) float64 {
	if text == "" {
		return 0
	}
	number, isPercent := strings.CutSuffix(strings.TrimSpace(text), "%")
	share, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if isPercent {
		share /= 100
	}
	if err != nil || !(share >= 0 && share <= 1) { // NaN is neither
		l.bad(key, text, "is not a part: write a percentage, for example 1%%, or a number from 0 (none) to 1 (all)")
		return 0
	}
	return share
}

// levelOfRuntime returns the log level that the IoT Edge runtime gives, else info. It is
// given to all modules, whatever they know of it, so that one which nobody knows is no
// error.
func (l *loader) levelOfRuntime() configuration.Loglevel {
	switch strings.ToLower(strings.TrimSpace(l.runtimeLevel)) {
	case "":
	case "verbose", "trace", "debug":
		return "debug"
	case "info", "information":
	case "warn", "warning":
		return "warn"
	case "error":
		return "error"
	case "critical", "fatal":
		return "fatal"
	default:
		l.warn("%s: %q is not a log level and is ignored: write debug, info, warning, error or critical, or set %s",
			runtimeLevelVariable, shown("log.level", l.runtimeLevel), variable("log.level"))
	}
	return "info"
}
