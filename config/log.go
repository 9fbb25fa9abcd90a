package config

import (
	"strings"

	"github.com/distribution/distribution/v3/configuration"
)

// runtimeLevelVariable is what the IoT Edge runtime tells modules to log.
const runtimeLevelVariable = "RuntimeLogLevel"

func (l *loader) finishLog(doc *document) {
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
