// aedes as a broker for MP-SL: `node aedes.mjs`. Tried with aedes 1.2.0. docs/brokers.md says how to use it.
import { createServer } from 'node:net'
import { Aedes } from 'aedes'

const HOST = '127.0.0.1'
const PORT = 1883

const broker = await Aedes.createBroker({
  // Publishes that are being delivered at a time, over all clients. While a reader's socket is full each publish to it
  // holds a place; when all are held, nobody gets anything.
  concurrency: 10000,
  // A reader that takes nothing for so many milliseconds is disconnected.
  drainTimeout: 60000
})
// Small packets go at once: acknowledgements would wait for up to 40 ms otherwise.
createServer({ noDelay: true }, broker.handle).listen(PORT, HOST)
