package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"sync"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	registrymiddleware "github.com/distribution/distribution/v3/registry/middleware/registry"
	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory" // what the app is given; it stays empty
	"github.com/distribution/reference"
)

// maxApps bounds how many apps are made. Each keeps a goroutine, and as many again as it has
// endpoints for notifications, for as long as the process lives: they cannot be stopped.
const maxApps = 64

// Apps are embedded apps, which servers that follow one another share where nothing of what
// they are made of has changed. The zero value has none yet. It is safe for use by several
// goroutines.
type Apps struct {
	mu   sync.Mutex // guards following
	made []madeApp
}

type madeApp struct {
	of  configuration.Configuration
	app *handlers.App
}

// app returns one for the configuration, which is not to be changed any more. What an app
// does in the background, once made, ends with ctx or Close.
func (a *Apps) app(ctx context.Context, stock *configuration.Configuration) (http.Handler, error) {
	of := appConfig(stock)
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, m := range a.made {
		if reflect.DeepEqual(m.of, of) {
			return m.app, nil
		}
	}
	if len(a.made) == maxApps {
		return nil, fmt.Errorf("http.prefix, notifications, catalog or tags were changed for the %dth time: that takes a restart", maxApps)
	}
	app, err := newApp(ctx, of)
	if err != nil {
		return nil, err
	}
	a.made = append(a.made, madeApp{of, app})
	return app, nil
}

// Close ends what can be ended.
func (a *Apps) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	var errs []error
	for _, m := range a.made {
		errs = append(errs, m.app.Shutdown())
	}
	a.made = nil
	return errors.Join(errs...)
}

// appConfig is what of a configuration an app is made of. The rest is done in front of it.
func appConfig(stock *configuration.Configuration) configuration.Configuration {
	of := *stock
	// The app insists on a storage driver of its own. This one holds nothing.
	of.Storage = configuration.Storage{
		"inmemory":    configuration.Parameters{},
		"maintenance": configuration.Parameters{"uploadpurging": map[any]any{"enabled": false}},
	}
	of.Middleware = map[string][]configuration.Middleware{
		"registry": {{Name: middlewareName}},
	}
	of.Proxy = configuration.Proxy{} // the proxy is ours
	of.Auth = nil                    // who comes this far was let in
	of.Redis = configuration.Redis{}
	of.Log, of.Health = configuration.Log{}, configuration.Health{}
	of.HTTP = configuration.HTTP{
		Addr: stock.HTTP.Addr, Host: stock.HTTP.Host, Prefix: stock.HTTP.Prefix, Secret: stock.HTTP.Secret,
		RelativeURLs: true, // proxies below us do not rewrite Location
	}
	if of.Catalog.MaxEntries <= 0 {
		of.Catalog.MaxEntries = 1000
	}
	return of
}

// middlewareName is how our namespace is known to the app.
const middlewareName = "registry-module"

// registerMiddleware makes the app's hook known to distribution, whose registry
// of middlewares is global.
var registerMiddleware = sync.OnceValue(func() error {
	return registrymiddleware.Register(middlewareName,
		func(context.Context, distribution.Namespace, storagedriver.StorageDriver, map[string]any) (distribution.Namespace, error) {
			return namespaceOfRequest{}, nil
		})
})

// newApp creates the stock app.
func newApp(ctx context.Context, config configuration.Configuration) (app *handlers.App, err error) {
	if err := registerMiddleware(); err != nil {
		return nil, err
	}
	if config.HTTP.Secret == "" {
		config.HTTP.Secret = rand.Text() // for uploads, which there are none of
	}
	defer func() {
		// The app reports some mistakes in its configuration by panicking.
		if p := recover(); p != nil {
			err = fmt.Errorf("embedded registry: %v", p)
		}
	}()
	return handlers.NewApp(ctx, &config), nil
}

// namespaceOfRequest is the namespace of the server that a request has come to.
type namespaceOfRequest struct{ *namespace }

// Repository implements distribution.Namespace.
func (namespaceOfRequest) Repository(ctx context.Context, name reference.Named) (distribution.Repository, error) {
	if x := exchangeFrom(ctx); x != nil {
		return x.ns.Repository(ctx, name)
	}
	return nil, distribution.ErrRepositoryUnknown{Name: name.Name()}
}

// Repositories implements distribution.Namespace.
func (namespaceOfRequest) Repositories(ctx context.Context, repos []string, last string) (int, error) {
	if x := exchangeFrom(ctx); x != nil {
		return x.ns.Repositories(ctx, repos, last)
	}
	return 0, distribution.ErrUnsupported
}
