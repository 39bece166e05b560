namespace Godwit.Migration.Tests;

/// <summary>Tests that count what the whole process holds: none runs beside them.</summary>
[CollectionDefinition(nameof(Alone), DisableParallelization = true)]
public sealed class Alone;

/// <summary>One guest that moves again and again: what the engine takes for a migration, it gives back.</summary>
[Collection(nameof(Alone))]
public sealed class BackAndForthTests(ITestOutputHelper output)
{
    private const int Moves = 30;

    [Theory]
    [InlineData("unix", 1)]
    [InlineData("tcp", 2)]
    public void Nothing_is_left_of_migrations_that_have_ended(string transport, int channels)
    {
        // Both ends are in this process, so what either leaves shows in it. The first ones load code and fill pools.
        Resources before = default;
        TestMachine machine = new(mebibytes: 8);
        machine.Fill(7);
        long first = Word(machine);
        for (int move = 1; move <= Moves; move++)
        {
            var destination = new TestMachine(mebibytes: 8, running: false);
            long written = move * 1000L;
            machine.Ram.Blocks[0].Write(64, BitConverter.GetBytes(first + written), Memory.DirtySource.Vmm);
            using (var pair = new Pair(machine, destination, transport: transport) { KeepsDestination = true })
            {
                pair.Source.Parameters = new MigrationParameters { Channels = channels, DowntimeLimit = TimeSpan.FromSeconds(2000), VerifyPages = true };
                pair.Migrate();
                Assert.True(pair.Source.Status.State == MigrationState.Completed, $"move {move}: {pair.Source.Status.Error}");
                Assert.Equal(MigrationState.Completed, pair.WaitForDestination(MigrationState.Completed, MigrationState.Failed));
            }

            machine = destination;
            Assert.Equal(first + written, Word(machine));
            if (move == Moves / 3)
                before = Resources.Now();
        }

        machine.Dispose();
        Resources after = Resources.Now();
        output.WriteLine($"after {Moves / 3} moves {before}, after {Moves} {after}");
        // The runner and the runtime have files of their own, which come and go; what each of two thirds of the moves leaves is far more than that.
        const int Later = Moves - (Moves / 3);
        Assert.True(after.OwnFiles - before.OwnFiles < Later / 2, $"{before} → {after}");
        Assert.True(after.Threads - before.Threads < Later / 2, $"{before} → {after}");
    }

    private static long Word(TestMachine machine)
    {
        byte[] word = new byte[8];
        machine.Ram.Blocks[0].Read(64, word);
        return BitConverter.ToInt64(word);
    }

    /// <summary>What this process holds.</summary>
    private readonly record struct Resources(int OwnFiles, int Threads)
    {
        /// <summary>Sockets, memory files and event files; and threads of the engine.</summary>
        public static Resources Now()
        {
            GC.Collect();
            GC.WaitForPendingFinalizers();
            int files = Directory.EnumerateFiles("/proc/self/fd").Count();
            int threads = Directory.EnumerateDirectories("/proc/self/task").Count(IsOfEngine);
            return new Resources(files, threads);
        }

        private static bool IsOfEngine(string task)
        {
            try
            {
                return File.ReadAllText($"{task}/comm").StartsWith("godwit", StringComparison.Ordinal);
            }
            catch (IOException)
            {
                return false; // it has just ended
            }
        }
    }
}
