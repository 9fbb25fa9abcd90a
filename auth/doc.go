// Package auth knows who may have what: the credentials that go out to remote
// registries, and the access controllers for those who come in.
//
// It promises that credentials, and the tokens that stand for them, are meant
// for a remote registry and its own token service and for nobody else
// ([RealmPolicy]). It trusts the operator's configuration, and nothing that a
// remote says.
//
// It opens no connections and logs nothing. It imports nothing of this module;
// of distribution it imports the stock access controllers.
package auth
