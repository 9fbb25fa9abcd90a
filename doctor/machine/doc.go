// Package machine looks at what this machine gives to the program: its clock, the data
// directory, free space, addresses to listen on.
//
// It promises that nothing is changed but for a file in the data directory that is
// removed at once, and that each step ends in time. It trusts this machine, but not who
// listens on its addresses: what they say is bounded and not repeated. Of this module
// it imports doctor/report, and upstream to clean texts.
package machine
