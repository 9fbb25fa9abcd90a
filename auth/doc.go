// Package auth knows who may have what: the credentials that go out to remote
// registries, and the access controllers for those who come in.
//
// It promises that credentials, and the tokens that stand for them, are meant
// for a remote registry and its own token service and for nobody else
// ([RealmPolicy]); that they are read again when they have been replaced; and that
// nothing of what a file holds or a credential helper writes is repeated in an
// error. A helper is bounded in time and output, and does not get our settings.
//
// It trusts the operator's configuration, with the files and programs that it
// names, and nothing that a remote says.
//
// It opens no connections and logs nothing. It imports nothing of this module;
// of distribution it imports the stock access controllers, and of Docker the form
// of its configuration and of its helpers' answers.
package auth
