package main

import (
	"io"
	"log"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/sirupsen/logrus"

	"registry-module/config"
)

// newCommandLogger is newLogger for a command, of whose steps nobody wants to read.
func newCommandLogger(cfg *config.Config, out io.Writer) logrus.FieldLogger {
	quiet, stock := *cfg, *cfg.Stock
	if stock.Log.Level == "info" {
		stock.Log.Level = "warn"
	}
	quiet.Stock = &stock
	return newLogger(&quiet, out)
}

// logTo returns what has the lines of log written elsewhere: on a terminal they would be in
// the middle of a display.
func logTo(log logrus.FieldLogger) func(io.Writer) {
	return func(out io.Writer) {
		if e, ok := log.(*logrus.Entry); ok {
			e.Logger.SetOutput(out)
		}
	}
}

// endWarnings has only errors logged from now on: what is told of work that ends with a
// command is told by the command.
func endWarnings(log logrus.FieldLogger) {
	if e, ok := log.(*logrus.Entry); ok && e.Logger.GetLevel() <= logrus.InfoLevel {
		e.Logger.SetLevel(min(e.Logger.GetLevel(), logrus.ErrorLevel))
	}
}

// newLogger returns the program's log, in the stock forms or that of IoT Edge, and sets
// up the one of the embedded app, which is logrus' standard logger.
func newLogger(cfg *config.Config, out io.Writer) logrus.FieldLogger {
	log := logrus.NewEntry(logrus.New())
	setLogger(log, cfg, out)
	return log
}

// setLogger has log, which is of newLogger, and what was derived from it, write as a
// configuration says.
func setLogger(log logrus.FieldLogger, cfg *config.Config, out io.Writer) {
	level, err := logrus.ParseLevel(string(cfg.Stock.Log.Level))
	if err != nil { // config has checked it
		level = logrus.InfoLevel
	}
	formatter := logFormatter(cfg.Stock.Log)

	app := logrus.StandardLogger()
	app.SetOutput(out)
	app.SetFormatter(discreetFormatter{formatter, secretsOf(cfg.Stock)})
	// The app writes several lines for each request and calls errors what is
	// the client's. What has gone wrong with a request, and why, is in the
	// access log or in a line of package server. The little that the app alone
	// knows (notifications that do not arrive, an access controller that fails)
	// is shown at level debug.
	app.SetLevel(logrus.FatalLevel)
	if level >= logrus.DebugLevel {
		app.SetLevel(level)
	}

	if len(cfg.Stock.Log.Fields) > 0 {
		formatter = fieldsFormatter{formatter, cfg.Stock.Log.Fields}
	}
	if e, ok := log.(*logrus.Entry); ok {
		e.Logger.SetOutput(out)
		e.Logger.SetLevel(level)
		e.Logger.SetFormatter(formatter)
		e.Logger.SetReportCaller(cfg.Stock.Log.ReportCaller)
	}
}

// fieldsFormatter adds those fields of the configuration that a line does not have itself.
type fieldsFormatter struct {
	logrus.Formatter
	fields map[string]any
}

// Format implements [logrus.Formatter].
func (f fieldsFormatter) Format(entry *logrus.Entry) ([]byte, error) {
	all := *entry
	all.Data = maps.Clone(logrus.Fields(f.fields))
	maps.Copy(all.Data, entry.Data)
	return f.Formatter.Format(&all)
}

// discreetFormatter leaves secrets out of messages: at level debug the app tells all headers
// of its notifications, and the URLs that they go to.
type discreetFormatter struct {
	logrus.Formatter
	secrets *strings.Replacer
}

// secretsOf are the secrets of the app's part of the configuration.
func secretsOf(stock *configuration.Configuration) *strings.Replacer {
	known := []string{stock.HTTP.Secret}
	for _, e := range stock.Notifications.Endpoints {
		for _, values := range e.Headers {
			known = append(known, values...)
		}
		if u, err := url.Parse(e.URL); err == nil && u.User != nil {
			password, _ := u.User.Password()
			known = append(known, u.User.String(), password)
		}
	}
	known = slices.DeleteFunc(known, func(s string) bool { return s == "" })
	// The longest first, of which another one can be a part.
	slices.SortFunc(known, func(a, b string) int { return len(b) - len(a) })
	var pairs []string
	for _, s := range known {
		pairs = append(pairs, s, "***")
	}
	return strings.NewReplacer(pairs...)
}

// Format implements [logrus.Formatter].
func (f discreetFormatter) Format(entry *logrus.Entry) ([]byte, error) {
	clean := *entry
	clean.Message = f.secrets.Replace(entry.Message)
	return f.Formatter.Format(&clean)
}

func logFormatter(cfg configuration.Log) logrus.Formatter {
	switch cfg.Formatter {
	case "json":
		return &logrus.JSONFormatter{TimestampFormat: time.RFC3339Nano, DisableHTMLEscape: true}
	case "logstash":
		return &logrus.JSONFormatter{TimestampFormat: time.RFC3339Nano,
			FieldMap: logrus.FieldMap{logrus.FieldKeyFunc: "function"}}
	case "iotedge":
		return edgeFormatter{}
	default:
		return &logrus.TextFormatter{TimestampFormat: time.RFC3339Nano, FullTimestamp: true}
	}
}

// httpLog receives what net/http has to say, which is about clients: failed TLS
// handshakes, malformed requests. Package server logs its own panics.
func httpLog(l logrus.FieldLogger) *log.Logger {
	return log.New(lineWriter{l}, "", 0)
}

type lineWriter struct{ log logrus.FieldLogger }

func (w lineWriter) Write(p []byte) (int, error) {
	w.log.Debug("http: " + strings.TrimSpace(string(p)))
	return len(p), nil
}
