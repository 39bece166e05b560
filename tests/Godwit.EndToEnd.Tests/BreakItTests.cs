using System.Diagnostics;
using System.Text.Json;
using Godwit.Migration;

namespace Godwit.EndToEnd.Tests;

/// <summary>
/// Every party × every harm × every moment, with real processes: never two running machines, the one that has to run does and loses nothing,
/// and the message names the cause. A few of them run always; all with <c>GODWIT_BREAK_IT=all</c>.
/// </summary>
public sealed class BreakItTests
{
    private static readonly TimeSpan StopTime = TimeSpan.FromSeconds(5);

    private static readonly string[] Moments = ["setup", "first round", "later round", "switchover", "after commit"];

    private static readonly (string Victim, string Harm, string Moment)[] Always =
    [
        ("source", "killed", "switchover"),
        ("source", "killed", "after commit"),
        ("destination", "killed", "after commit"),
        ("link", "cut", "first round"),
        ("link", "cut", "after commit"),
        ("device b", "stopped", "switchover"),
    ];

    public static TheoryData<string, string, string> Matrix
    {
        get
        {
            var matrix = new TheoryData<string, string, string>();
            bool all = Environment.GetEnvironmentVariable("GODWIT_BREAK_IT") == "all";
            foreach (string moment in Moments)
            {
                Add("link", "cut", moment);
                foreach (string victim in new[] { "source", "destination", "device a", "device b" })
                {
                    Add(victim, "killed", moment);
                    Add(victim, "stopped", moment);
                }
            }

            return matrix;

            void Add(string victim, string harm, string moment)
            {
                if (all || Always.Contains((victim, harm, moment)))
                {
                    matrix.Add(victim, harm, moment);
                }
            }
        }
    }

    [Theory]
    [MemberData(nameof(Matrix))]
    public async Task Whatever_breaks_the_right_side_runs_and_no_other(string victim, string harm, string moment)
    {
        await using var stage = new Stage();
        Pair pair = await stage.PairAsync();
        GodwitProcess? struck = victim switch
        {
            "source" => pair.Source,
            "destination" => pair.Destination,
            "device a" => pair.DeviceA,
            "device b" => pair.DeviceB,
            _ => null,
        };
        var done = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        await using MigrationProxy proxy = MigrationProxy.After(stage.In("proxy.sock"), stage.In("mig.sock"), frame =>
        {
            if (!IsMoment(frame, moment) || done.Task.IsCompleted)
            {
                return true;
            }

            Strike(struck, harm);
            done.SetResult();
            return harm != "cut";
        });
        // A limit that no guest meets makes sure of a later round; afterwards patience for whatever is stopped meanwhile.
        bool later = moment == "later round";
        await pair.Src.SetAsync(("downtime-limit", later ? "1" : Stage.Patient), ("x-min-precopy", "500"));
        await pair.Src.MigrateAsync(proxy.Uri);
        await done.Task.WaitAsync(GodwitProcess.Guard);
        if (harm == "stopped")
        {
            await Task.Delay(StopTime, TimeProvider.System);
            Signal(struck!, "CONT");
        }

        if (later && (victim, harm) != ("source", "killed"))
        {
            await pair.Src.SetAsync(("downtime-limit", Stage.Patient));
        }

        await JudgeAsync(pair, victim, harm, committed: moment == "after commit");
    }

    private static async Task JudgeAsync(Pair pair, string victim, string harm, bool committed)
    {
        JsonElement? migration = victim == "source" && harm == "killed" ? null : await pair.Src.MigratedAsync();
        string status = migration?.GetProperty("status").GetString() ?? "gone";
        if (status == "failed")
        {
            Assert.False(string.IsNullOrWhiteSpace(migration!.Value.GetProperty("error-desc").GetString()), $"{migration}\n{pair.Everything}");
        }

        Qmp? runner = (victim, harm) switch
        {
            (_, "stopped") => status == "completed" ? pair.Dst : pair.Src,
            ("source", "killed") => committed ? pair.Dst : null,
            ("destination", "killed") => committed ? null : pair.Src,
            // Once its state and log have been sent it is not needed any more; before, the guest runs on with a device that has gone.
            ("device a", "killed") => committed || status == "completed" ? pair.Dst : null,
            ("device b", "killed") => committed ? null : pair.Src,
            _ => committed ? pair.Dst : pair.Src,
        };
        if (runner is not null)
        {
            await runner.InStateAsync("running");
            await runner.GuestDoesIoAsync();
            Assert.Equal(0, (await runner.GuestAsync()).GetProperty("mismatches").GetInt64());
        }

        string source = await StateOrGoneAsync(pair.Src);
        string destination = await StateOrGoneAsync(pair.Dst);
        string story = $"{migration}\nsource {source}, destination {destination}\n{pair.Everything}";
        Assert.False(source == "running" && destination == "running", story);
        if (runner == pair.Dst)
        {
            Assert.True(source is "postmigrate" or "gone", story);
        }
        else if (committed)
        {
            Assert.NotEqual("running", source);
        }
        else
        {
            Assert.True(destination is not "running" and not "paused", story);
        }
    }

    /// <summary>The frame after which it strikes.</summary>
    private static bool IsMoment(Frame frame, string moment) => moment switch
    {
        "setup" => frame.Type == FrameType.Description,
        "first round" => frame.Type == FrameType.Pages,
        "later round" => frame.Type == FrameType.RoundEnd && RoundEndMessage.Read(frame.Header, frame.Payload).Number == 3,
        "switchover" => frame.Type == FrameType.Prepare,
        _ => frame.Type == FrameType.Commit,
    };

    private static void Strike(GodwitProcess? victim, string harm)
    {
        if (victim is not null)
        {
            Signal(victim, harm == "killed" ? "KILL" : "STOP");
        }
    }

    private static void Signal(GodwitProcess process, string signal)
    {
        using Process kill = Process.Start("/bin/sh", ["-c", $"kill -{signal} {process.Id}"]);
        kill.WaitForExit();
        Assert.Equal(0, kill.ExitCode);
    }

    private static async Task<string> StateOrGoneAsync(Qmp machine)
    {
        try
        {
            return await machine.StateAsync();
        }
        catch (IOException)
        {
            return "gone";
        }
    }
}
