// Package admin answers on the admin address: whether the module is well, what it does, and
// who has the operator's token can change that.
//
// It promises that nothing is told there that is secret, that nothing is changed without the
// token, that who looks costs hardly anything and who does not look nothing, and that names
// of images, which come from far away, are never taken for markup. It trusts the parts that
// it is given through its interfaces. Of this module it imports cache and server.
//
// What it cannot promise is that nobody else looks: who reaches the address can read all of
// it but the metrics' and profiles' own secrets, of which there are none. It is for loopback
// or a network of those who run the module.
package admin
