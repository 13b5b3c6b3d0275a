// A contender of tests/programs/contest.rs that locks with proper-lockfile.
const fs = require('fs');
const { setTimeout: sleep } = require('timers/promises');
const lockfile = require('proper-lockfile');

const { ARENA, LOCK, ROUNDS } = process.env;
const retries = { retries: 6000, minTimeout: 1, maxTimeout: 10, randomize: true };

(async () => {
    for (let round = 0; round < Number(ROUNDS); round++) {
        const release = await lockfile.lock(LOCK, { realpath: false, retries });
        fs.mkdirSync(`${ARENA}/inside`);
        const count = Number(fs.readFileSync(`${ARENA}/counter`, 'utf8'));
        await sleep(Math.random() * 10);
        fs.writeFileSync(`${ARENA}/counter`, `${count + 1}\n`);
        fs.rmdirSync(`${ARENA}/inside`);
        await release();
    }
})();
