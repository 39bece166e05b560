using System.Text.Json;
using Godwit.VfioUser;

namespace Godwit.EndToEnd.Tests;

/// <summary><c>godwit device check --socket</c> as a device author's build would use it: by its exit code and what it prints.</summary>
public sealed class DeviceCheckTests
{
    /// <summary>How long a device may take for one answer: no test of that.</summary>
    private const string Patience = "90s";

    [Fact]
    public async Task A_right_device_passes_and_a_script_can_read_what_was_looked_at()
    {
        await using var stage = new Stage();
        GodwitProcess devices = stage.Start("device", "edu", "--socket", stage.In("a.sock"), "--socket", stage.In("b.sock"));
        await devices.WaitForAsync($"listening on {stage.In("a.sock")}");
        await devices.WaitForAsync($"listening on {stage.In("b.sock")}");

        GodwitProcess check = stage.Start("device", "check", "--socket", stage.In("a.sock"), "--second", stage.In("b.sock"), "--timeout", Patience, "--json");
        await check.SucceedAsync();
        Assert.Empty(check.Errors);
        using var json = JsonDocument.Parse(string.Join('\n', check.Output));
        (string Name, string Outcome)[] checks = Checks(json);
        Assert.Distinct(checks.Select(c => c.Name));
        Assert.DoesNotContain(checks, c => c.Outcome == "fail");
        Assert.Contains(("state.restore", "pass"), checks);
        AssertCounts(json, checks);

        GodwitProcess again = stage.Start("device", "check", "--socket", stage.In("b.sock"), "--timeout", Patience);
        await again.SucceedAsync();
        Assert.Contains(again.Output, line => line.StartsWith("pass         version.answer ", StringComparison.Ordinal));
        Assert.Contains(", 0 failed, ", again.Output[^1], StringComparison.Ordinal);
        Assert.Equal(checks.Select(c => c.Name), again.Output.SkipLast(1).Where(line => line.Length > 13 && line[0] != ' ').Select(line => line[13..].Split(' ')[0]));
    }

    /// <summary>All of its configuration space can be written: its vendor id, and its BAR as if it were of any size.</summary>
    [Fact]
    public async Task A_wrong_device_fails_and_is_told_where()
    {
        await using var stage = new Stage();
        BareDevice device = stage.Own(new BareDevice(stage.In("bare.sock"), MigrationSupport.None, logging: false));
        await device.Listening.WaitAsync(GodwitProcess.Guard);

        GodwitProcess check = stage.Start("device", "check", "--socket", stage.In("bare.sock"), "--timeout", Patience, "--json");
        Assert.Equal(1, await check.ExitAsync());
        Assert.Empty(check.Errors);
        using var json = JsonDocument.Parse(string.Join('\n', check.Output));
        (string Name, string Outcome)[] checks = Checks(json);
        Assert.Equal(["config.read-only", "config.bars"], checks.Where(c => c.Outcome == "fail").Select(c => c.Name));
        Assert.Contains(("state.restore", "not-offered"), checks);
        AssertCounts(json, checks);
        Assert.All(
            json.RootElement.GetProperty("checks").EnumerateArray().Where(c => c.GetProperty("outcome").GetString() == "fail"),
            c => Assert.False(string.IsNullOrWhiteSpace(c.GetProperty("why").GetString())));

        // Another one: what the examination has overwritten stays so.
        BareDevice next = stage.Own(new BareDevice(stage.In("next.sock"), MigrationSupport.None, logging: false));
        await next.Listening.WaitAsync(GodwitProcess.Guard);
        GodwitProcess again = stage.Start("device", "check", "--socket", stage.In("next.sock"), "--timeout", Patience);
        Assert.Equal(1, await again.ExitAsync());
        Assert.Contains(again.Output, line => line.StartsWith("FAIL         config.read-only ", StringComparison.Ordinal));
        Assert.Contains(again.Output, line => line.TrimStart().StartsWith("but: ", StringComparison.Ordinal));
        Assert.Contains(", 2 failed, ", again.Output[^1], StringComparison.Ordinal);
    }

    [Fact]
    public async Task Nobody_there_is_a_failure_without_a_report()
    {
        await using var stage = new Stage();
        GodwitProcess check = stage.Start("device", "check", "--socket", stage.In("none.sock"), "--json");
        await check.FailAsync(1, "none.sock");
        Assert.Empty(check.Output);
    }

    private static (string Name, string Outcome)[] Checks(JsonDocument json) =>
        [.. json.RootElement.GetProperty("checks").EnumerateArray().Select(c => (c.GetProperty("name").GetString()!, c.GetProperty("outcome").GetString()!))];

    private static void AssertCounts(JsonDocument json, (string Name, string Outcome)[] checks)
    {
        foreach ((string property, string outcome) in (ReadOnlySpan<(string, string)>)[("passed", "pass"), ("failed", "fail"), ("not-offered", "not-offered")])
            Assert.Equal(checks.Count(c => c.Outcome == outcome), json.RootElement.GetProperty(property).GetInt32());
    }
}
