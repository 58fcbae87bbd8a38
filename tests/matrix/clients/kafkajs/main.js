// The kafkajs row of the client matrix: `node main.js BOOTSTRAP RUN_ID`.
// Steps, record rule and group scenario are those of clients/python/rowkit.py.
'use strict'

const zstd = require('@mongodb-js/zstd')
const { Kafka, CompressionTypes, CompressionCodecs, ConfigResourceTypes, logLevel } = require('kafkajs')
const snappy = require('kafkajs-snappy')
const lz4 = require('lz4-napi')

const PARTITIONS = 6
const RECORDS = Number(process.env.MATRIX_RECORDS || 200)
const WAIT_MS = 45_000

// kafkajs brings gzip; the other codecs are plugged in, as its documentation says.
CompressionCodecs[CompressionTypes.Snappy] = snappy
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: (encoder) => lz4.compressFrame(encoder.buffer),
  decompress: (buffer) => lz4.decompressFrame(buffer),
})
CompressionCodecs[CompressionTypes.ZSTD] = () => ({
  compress: (encoder) => zstd.compress(encoder.buffer, 3),
  decompress: (buffer) => zstd.decompress(buffer),
})

const [bootstrap, runId] = process.argv.slice(2)
const kafka = new Kafka({ brokers: [bootstrap], logLevel: logLevel.NOTHING })
let failed = false

const named = (suffix) => `kafkajs-${runId}-${suffix}`
const info = (key, value) => console.log(`INFO ${key} ${value}`)
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
const range = (count) => [...Array(count).keys()]
const total = (numbers) => numbers.reduce((sum, number) => sum + number, 0)

const step = async (name, run) => {
  try {
    await run()
    console.log(`PASS ${name}`)
  } catch (error) {
    failed = true
    console.log(`FAIL ${name}: ${String(error.message || error).replace(/\s+/g, ' ')}`)
    if (process.env.MATRIX_TRACE) console.error(error)
  }
}

const check = (holds, otherwise) => {
  if (!holds) throw new Error(typeof otherwise === 'string' ? otherwise : JSON.stringify(otherwise))
}

const waitFor = async (what, done, limitMs = WAIT_MS) => {
  const deadline = Date.now() + limitMs
  while (!(await done())) {
    check(Date.now() < deadline, `timed out waiting for ${what}`)
    await sleep(50)
  }
}

const refused = async (code, call) => {
  try {
    await call()
  } catch (error) {
    const types = [error.type, ...(error.errors || []).map((inner) => inner.type)]
    check(types.includes(code), `answered ${types} ${error.message}`)
    return
  }
  throw new Error(`not refused with ${code}`)
}

const record = (partition, offset) => ({
  partition,
  key: `k-${partition}-${offset}`,
  value: `v-${partition}-${offset}-${'x'.repeat((offset * 7) % 211)}`,
  headers: { at: [`${partition}/${offset}`, 'again'], empty: '' },
})

const checkRecord = (partition, message) => {
  const offset = Number(message.offset)
  const want = record(partition, offset)
  const at = [].concat(message.headers.at || []).map(String)
  const same =
    String(message.key) === want.key && String(message.value) === want.value &&
    at.join() === want.headers.at.join() && message.headers.empty && message.headers.empty.length === 0
  check(same, `record ${partition}/${offset} is ${message.key} ${message.value} ${JSON.stringify(message.headers)}`)
  return offset
}

// Writes `rounds` records to every partition and checks the base offset of every acknowledged batch.
const produceRounds = async (producer, topic, ends, rounds, compression) => {
  const messages = range(rounds).flatMap((round) => ends.map((end, partition) => record(partition, end + round)))
  for (const { partition, baseOffset } of await producer.send({ topic, messages, compression })) {
    check(Number(baseOffset) === ends[partition], `${partition}: ${ends[partition]} was acknowledged at ${baseOffset}`)
  }
  ends.forEach((end, partition) => { ends[partition] = end + rounds })
}

const produceCodecs = async (topic, ends) => {
  const codecs = { none: undefined, gzip: CompressionTypes.GZIP, snappy: CompressionTypes.Snappy,
    lz4: CompressionTypes.LZ4, zstd: CompressionTypes.ZSTD }
  for (const [name, codec] of Object.entries(codecs)) {
    await step(`produce:${name}`, async () => {
      const producer = kafka.producer()
      await producer.connect()
      await produceRounds(producer, topic, ends, RECORDS, codec)
      await producer.disconnect()
    })
  }
  await step('produce:idempotent', async () => {
    const producer = kafka.producer({ idempotent: true })
    await producer.connect()
    await produceRounds(producer, topic, ends, RECORDS)
    await producer.disconnect()
  })
}

class Ledger {
  next = range(PARTITIONS).map(() => 0)
  repeats = 0
  error = null

  see(partition, message) {
    try {
      const offset = checkRecord(partition, message)
      check(offset <= this.next[partition], `${partition}: ${offset} follows ${this.next[partition] - 1}`)
      if (offset < this.next[partition]) this.repeats += 1
      this.next[partition] = Math.max(this.next[partition], offset + 1)
    } catch (error) {
      this.error = this.error || error
    }
  }

  settled(ends) {
    return this.error || this.next.join() === ends.join()
  }
}

// A consumer of a group, with what it owns and what it has read from.
class Member {
  owned = []
  read = new Set()

  static async start(topic, group, ledger) {
    const member = new Member()
    member.consumer = kafka.consumer({ groupId: group })
    member.consumer.on('consumer.group_join', ({ payload }) => { member.owned = payload.memberAssignment[topic] || [] })
    await member.consumer.connect()
    await member.consumer.subscribe({ topic, fromBeginning: true })
    await member.consumer.run({
      eachMessage: async ({ partition, message }) => {
        ledger.see(partition, message)
        member.read.add(partition)
      },
    })
    return member
  }

  stop() {
    return this.consumer.disconnect()
  }
}

// A second member joins while the first one consumes a live load, then leaves again.
const groupScenario = async (topic, group, ends) => {
  const ledger = new Ledger()
  let loading = true
  const load = (async () => {
    const producer = kafka.producer()
    await producer.connect()
    for (; loading; await sleep(20)) await produceRounds(producer, topic, ends, 1)
    await producer.disconnect()
  })()
  load.catch(() => {}) // it is awaited below, in its step
  let first, second
  await step('group:first-member', async () => {
    first = await Member.start(topic, group, ledger)
    await waitFor('records of all partitions', () => first.read.size === PARTITIONS)
  })
  await step('group:second-joins', async () => {
    second = await Member.start(topic, group, ledger)
    await waitFor('three partitions on each member', () =>
      first.owned.length === 3 && second.owned.length === 3 && new Set([...first.owned, ...second.owned]).size === PARTITIONS)
    await waitFor('records on the second member', () => second.read.size === 3)
  })
  await step('group:second-leaves', async () => {
    await second.stop()
    await waitFor('all partitions on the first member', () => first.owned.length === PARTITIONS)
  })
  await step('group:all-accounted', async () => {
    loading = false
    await load
    await waitFor(`every record (${ledger.next} of ${ends})`, () => ledger.settled(ends))
    await first.stop()
    if (ledger.error) throw ledger.error
  })
  info('group-repeats', ledger.repeats)
}

const resume = async (admin, topic, group, ends) => {
  let committed = range(PARTITIONS).map(() => 0)
  await step('resume:commit', async () => {
    const seen = [...committed]
    const consumer = kafka.consumer({ groupId: group })
    await consumer.connect()
    await consumer.subscribe({ topic, fromBeginning: true })
    await consumer.run({
      autoCommit: false,
      eachMessage: async ({ partition, message }) => { seen[partition] = Number(message.offset) + 1 },
    })
    await waitFor('a third of the records', () => total(seen) >= total(ends) / 3)
    committed = seen.map((end) => Math.floor(end / 2))
    await consumer.commitOffsets(committed.map((offset, partition) => (
      { topic, partition, offset: String(offset), metadata: 'from the matrix' })))
    await consumer.disconnect()
    const [found] = await admin.fetchOffsets({ groupId: group, topics: [topic] })
    for (const { partition, offset, metadata } of found.partitions) {
      check(Number(offset) === committed[partition] && metadata === 'from the matrix', found)
    }
  })
  await step('resume:exact', async () => {
    const position = [...committed]
    let wrong = null
    const consumer = kafka.consumer({ groupId: group })
    await consumer.connect()
    await consumer.subscribe({ topic, fromBeginning: true })
    await consumer.run({
      eachMessage: async ({ partition, message }) => {
        const offset = checkRecord(partition, message)
        if (offset !== position[partition]) wrong = wrong || `${partition} resumed at ${offset}, not ${position[partition]}`
        position[partition] = offset + 1
      },
    })
    await waitFor('the rest', () => wrong || position.join() === ends.join())
    await consumer.disconnect()
    check(!wrong, wrong)
  })
}

const adminTopics = async (admin, topic) => {
  const partitions = async (name) => (await admin.fetchTopicMetadata({ topics: [name] })).topics[0].partitions.length
  const other = named('grow')
  await step('admin:create-topic-exists', async () => {
    check((await admin.createTopics({ topics: [{ topic, numPartitions: PARTITIONS }] })) === false, 'created twice')
  })
  await step('admin:list-topics', async () => check((await admin.listTopics()).includes(topic), 'not listed'))
  await step('admin:describe-topic', async () => check((await partitions(topic)) === PARTITIONS, 'wrong partition count'))
  await step('admin:create-partitions', async () => {
    await admin.createTopics({ topics: [{ topic: other, numPartitions: 1 }], waitForLeaders: true })
    await admin.createPartitions({ topicPartitions: [{ topic: other, count: 4 }] })
    await waitFor('4 partitions', async () => (await partitions(other)) === 4)
    await refused('INVALID_PARTITIONS', () => admin.createPartitions({ topicPartitions: [{ topic: other, count: 2 }] }))
  })
  await step('admin:delete-topic', async () => {
    await admin.deleteTopics({ topics: [other] })
    await waitFor('the topic to go', async () => !(await admin.listTopics()).includes(other))
  })
  await step('admin:describe-cluster', async () => {
    const found = await admin.describeCluster()
    check(found.brokers.length > 0 && found.clusterId && found.controller !== null, found)
  })
}

const adminConfigs = async (admin, topic) => {
  const type = ConfigResourceTypes.TOPIC
  const value = async (name) => {
    const { resources } = await admin.describeConfigs({ resources: [{ type, name: topic }], includeSynonyms: true })
    return resources[0].configEntries.find((entry) => entry.configName === name).configValue
  }
  await step('admin:describe-configs', async () => {
    check((await value('retention.ms')) === '7200000', await value('retention.ms'))
    check((await value('cleanup.policy')) === 'delete', await value('cleanup.policy'))
  })
  await step('admin:alter-configs', async () => {
    await admin.alterConfigs({
      resources: [{ type, name: topic, configEntries: [{ name: 'max.message.bytes', value: '500000' }] }],
    })
    await waitFor('the new value', async () => (await value('max.message.bytes')) === '500000')
    check((await value('retention.ms')) === '604800000', 'alter configs keeps what it does not name')
  })
}

const adminGroups = async (admin, topic, group, ends) => {
  const offsets = async () => {
    const [found] = await admin.fetchOffsets({ groupId: group, topics: [topic] })
    return found.partitions.sort((a, b) => a.partition - b.partition).map(({ offset }) => Number(offset))
  }
  await step('admin:list-groups', async () => {
    check((await admin.listGroups()).groups.some(({ groupId }) => groupId === group), 'not listed')
  })
  await step('admin:describe-groups', async () => {
    const { groups } = await admin.describeGroups([group])
    check(groups[0].state === 'Empty' && groups[0].protocolType === 'consumer', groups)
  })
  await step('admin:list-group-offsets', async () => check((await offsets()).join() === ends.join(), await offsets()))
  await step('admin:alter-group-offsets', async () => {
    await admin.setOffsets({ groupId: group, topic, partitions: ends.map((_, partition) => ({ partition, offset: '5' })) })
    check((await offsets()).every((offset) => offset === 5), await offsets())
  })
  await step('admin:reset-group-offsets', async () => {
    await admin.resetOffsets({ groupId: group, topic, earliest: false })
    const reset = await admin.fetchOffsets({ groupId: group, topics: [topic], resolveOffsets: true })
    check(reset[0].partitions.every(({ partition, offset }) => Number(offset) === ends[partition]), reset)
  })
  await step('admin:delete-group', async () => {
    await admin.deleteGroups([group])
    check(!(await admin.listGroups()).groups.some(({ groupId }) => groupId === group), 'still listed')
  })
}

const adminRecords = async (admin, topic, ends) => {
  const first = async () => (await admin.fetchTopicOffsets(topic)).find(({ partition }) => partition === 0)
  await step('admin:list-offsets', async () => {
    const { low, high } = await first()
    check(Number(low) === 0 && Number(high) === ends[0], `${low} to ${high}`)
    const after = (await admin.fetchTopicOffsetsByTimestamp(topic, 1)).find(({ partition }) => partition === 0)
    check(Number(after.offset) === 0, after)
  })
  await step('admin:delete-records', async () => {
    await admin.deleteTopicRecords({ topic, partitions: [{ partition: 0, offset: '100' }] })
    check(Number((await first()).low) === 100, await first())
  })
}

const main = async () => {
  info('version', `kafkajs ${require('kafkajs/package.json').version}, Node ${process.version}`)
  const [topic, group, ends] = [named('t'), named('resume'), range(PARTITIONS).map(() => 0)]
  const admin = kafka.admin()
  await admin.connect()
  await step('admin:create-topic', async () => {
    const configEntries = [{ name: 'retention.ms', value: '7200000' }]
    check(await admin.createTopics({ topics: [{ topic, numPartitions: PARTITIONS, configEntries }] }), 'not created')
  })
  await produceCodecs(topic, ends)
  await groupScenario(topic, named('group'), ends)
  await resume(admin, topic, group, ends)
  await adminTopics(admin, topic)
  await adminConfigs(admin, topic)
  await adminGroups(admin, topic, group, ends)
  await adminRecords(admin, topic, ends)
  await admin.disconnect()
  process.exit(failed ? 1 : 0)
}

main().catch((error) => {
  console.log(`FAIL admin:connect: ${error.message}`)
  process.exit(1)
})
