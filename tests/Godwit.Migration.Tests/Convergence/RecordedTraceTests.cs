using System.Text.Json;
using Godwit.Memory;

namespace Godwit.Migration.Tests;

/// <summary>The decision on rounds of real migrations, as <c>query-migrate</c> listed them: it is what was decided then, and as soon.</summary>
public sealed class RecordedTraceTests
{
    [Theory]
    [InlineData("guest-faster-than-link", 4)]
    [InlineData("uncovered-above-limit", 4)]
    [InlineData("near-the-limit", null)]
    public void A_recorded_migration_is_decided_as_it_was(string name, int? reportedInRound)
    {
        JsonElement trace = Read(name);
        JsonElement[] rounds = [.. trace.GetProperty("rounds").EnumerateArray()];
        var clock = new ManualClock();
        var history = new ConvergenceHistory(clock);
        TimeSpan time = TimeSpan.Zero;
        long deviceBytes = 0;
        int? reported = null;
        ConvergenceDecision decision = default;
        for (int i = 0; i < rounds.Length; i++)
        {
            JsonElement round = rounds[i];
            TimeSpan duration = Microseconds(round, "duration-microseconds");
            clock.Advance(duration);
            time += duration;
            long device = round.GetProperty("device-bytes").GetInt64();
            decision = Convergence.Decide(new ConvergenceInput
            {
                PrecopyTime = time,
                RoundBytes = Pages(round, "pages") + Pages(round, "zero-pages"),
                RemainingBytes = Pages(round, "remaining-pages"),
                UncoveredBytes = Pages(round, "uncovered-pages"),
                UnharvestedBytes = Pages(round, "unharvested-pages"),
                RoundDeviceBytes = deviceBytes,
                DeviceBytes = device,
                BytesPerSecond = round.GetProperty("link-bytes-per-second").GetDouble(),
                FixedTime = Microseconds(round, "switchover-microseconds"),
                Rates = new DirtyRates(
                    round.GetProperty("dirty-vcpu").GetInt64() / duration.TotalSeconds,
                    round.GetProperty("dirty-device").GetInt64() / duration.TotalSeconds,
                    round.GetProperty("dirty-vmm").GetInt64() / duration.TotalSeconds),
                UnconvergedRounds = history.UnconvergedRounds,
                RoundsSinceBest = history.RoundsSinceBest,
                TimeSinceBest = history.TimeSinceBest,
                OutpacedRounds = history.OutpacedRounds,
                OutpacedTime = history.OutpacedTime,
                DowntimeLimit = TimeSpan.FromMilliseconds(trace.GetProperty("downtime-limit-ms").GetInt32()),
                MinimumPrecopy = TimeSpan.Zero,
                MaxRounds = 100,
            });
            history.Add(decision);
            deviceBytes = device;
            if (decision.Outlook.Outpaced)
                reported ??= round.GetProperty("number").GetInt32();
            Assert.Equal(Microseconds(round, "expected-downtime-microseconds").TotalMilliseconds, decision.ExpectedDowntime.TotalMilliseconds, tolerance: 0.1);
            Assert.True(i == rounds.Length - 1 || decision.Step == ConvergenceStep.Continue, $"{decision.Step} after round {round.GetProperty("number")}");
        }

        Assert.Equal(trace.GetProperty("ends").GetString(), decision.Step.ToString());
        Assert.Equal(trace.GetProperty("obstacle").GetString(), decision.Outlook.Obstacle.ToString());
        Assert.Equal(reportedInRound, reported);
    }

    private static long Pages(JsonElement round, string name) => round.GetProperty(name).GetInt64() * RamPage.Size;

    private static TimeSpan Microseconds(JsonElement round, string name) => TimeSpan.FromMicroseconds(round.GetProperty(name).GetInt64());

    private static JsonElement Read(string name)
    {
        using Stream file = typeof(RecordedTraceTests).Assembly.GetManifestResourceStream($"Traces.{name}.json")
            ?? throw new InvalidOperationException($"no trace {name}");
        using JsonDocument document = JsonDocument.Parse(file);
        return document.RootElement.Clone();
    }
}
