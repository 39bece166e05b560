using System.Diagnostics;
using System.Globalization;
using System.Text.Json;

namespace Godwit.Monitor.Tests;

/// <summary>The protocol over real sockets, with commands that are easy to see through.</summary>
public sealed class QmpServerTests : IAsyncLifetime
{
    private static readonly TimeSpan Guard = TimeSpan.FromSeconds(30);

    private readonly string _directory = Directory.CreateTempSubdirectory("godwit-qmp-").FullName;
    private readonly ManualResetEventSlim _gate = new();
    private readonly SemaphoreSlim _entered = new(0);
    private QmpServer? _server;

    private string SocketPath => Path.Combine(_directory, "qmp");

    private QmpServer Server => _server ?? throw new InvalidOperationException("not started");

    public ValueTask InitializeAsync()
    {
        var commands = new QmpCommandTable();
        commands.Add("echo", static (arguments, result) => result.WriteStringValue(arguments.RequireString("text")), "text");
        commands.Add("add", static (arguments, result) => result.WriteNumberValue(arguments.FindInteger("n", 1, 10) + 1 ?? 0), "n", "flag");
        commands.Add("nothing", static (_, _) => { });
        commands.Add("broken", static (_, _) => throw new NotSupportedException("a bug"));
        commands.Add("refused", static (_, _) => throw new InvalidOperationException("not now"));
        commands.AddBlocking("wait", (_, _) =>
        {
            _entered.Release();
            _gate.Wait();
        });
        _server = new QmpServer(SocketPath, commands, TimeProvider.System, static _ => { });
        return ValueTask.CompletedTask;
    }

    public async ValueTask DisposeAsync()
    {
        _gate.Set();
        await Server.DisposeAsync();
        Directory.Delete(_directory, recursive: true);
    }

    [Fact]
    public void The_greeting_has_the_shape_that_clients_look_for()
    {
        using var client = new RawClient(SocketPath);
        JsonElement greeting = client.Receive().GetProperty("QMP");
        JsonElement version = greeting.GetProperty("version");
        Assert.True(version.GetProperty("qemu").GetProperty("major").TryGetInt32(out _));
        Assert.True(version.GetProperty("qemu").GetProperty("minor").TryGetInt32(out _));
        Assert.True(version.GetProperty("qemu").GetProperty("micro").TryGetInt32(out _));
        Assert.Equal(JsonValueKind.String, version.GetProperty("package").ValueKind);
        Assert.Equal(0, greeting.GetProperty("capabilities").GetArrayLength());
    }

    [Fact]
    public void Before_negotiation_no_command_is_known_and_after_it_no_second_negotiation()
    {
        using var client = new RawClient(SocketPath);
        client.Receive();
        AssertError(client.Execute("""{"execute":"nothing","id":1}"""), "CommandNotFound", "qmp_capabilities", id: "1");
        client.Execute("""{"execute":"qmp_capabilities","arguments":{"enable":[]}}""");
        AssertError(client.Execute("""{"execute":"qmp_capabilities"}"""), "CommandNotFound", "before");
        Assert.Equal("{}", client.Execute("""{"execute":"nothing"}""").GetProperty("return").GetRawText());
    }

    [Fact]
    public void A_capability_that_is_not_offered_is_refused()
    {
        using var client = new RawClient(SocketPath);
        client.Receive();
        AssertError(client.Execute("""{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}"""), "GenericError", "\"oob\"");
        AssertError(client.Execute("""{"execute":"nothing"}"""), "CommandNotFound", "qmp_capabilities");
    }

    [Theory]
    [InlineData("7")]
    [InlineData("\"seven\"")]
    [InlineData("null")]
    [InlineData("""{"deep":[1,{"er":true}]}""")]
    public void The_id_comes_back_as_it_went(string id)
    {
        using RawClient client = RawClient.Negotiated(SocketPath);
        JsonElement reply = client.Execute($$$"""{"id":{{{id}}},"execute":"echo","arguments":{"text":"x"}}""");
        Assert.Equal("x", reply.GetProperty("return").GetString());
        Assert.Equal(id, reply.GetProperty("id").GetRawText());
    }

    [Theory]
    [InlineData("""{"execute":"echo"}""", "GenericError", "'text' is missing")]
    [InlineData("""{"execute":"echo","arguments":{"text":1}}""", "GenericError", "'text' must be a string, not a number")]
    [InlineData("""{"execute":"echo","arguments":{"text":"a","more":1}}""", "GenericError", "'more' is not known")]
    [InlineData("""{"execute":"nothing","arguments":{"more":1}}""", "GenericError", "takes none")]
    [InlineData("""{"execute":"echo","arguments":[]}""", "GenericError", "must be an object, not an array")]
    [InlineData("""{"execute":"add","arguments":{"n":0}}""", "GenericError", "from 1 to 10, not 0")]
    [InlineData("""{"execute":"add","arguments":{"n":1.5}}""", "GenericError", "from 1 to 10, not 1.5")]
    [InlineData("""{"execute":"add","arguments":{"n":1e99}}""", "GenericError", "from 1 to 10, not 1e99")]
    [InlineData("""{"execute":"nosuch"}""", "CommandNotFound", "'nosuch'")]
    [InlineData("""{"execute":5}""", "GenericError", "'execute', a string")]
    [InlineData("""{"exec":"echo"}""", "GenericError", "'exec'")]
    [InlineData("""[1]""", "GenericError", "an object, not an array")]
    [InlineData("""{"execute":"nothing","execute":"nothing"}""", "GenericError", "Invalid JSON")]
    [InlineData("""{"execute":"nothing",}""", "GenericError", "Invalid JSON")]
    [InlineData("""{execute}""", "GenericError", "Invalid JSON")]
    [InlineData("""{"execute":"refused"}""", "GenericError", "not now")]
    [InlineData("""{"execute":"broken"}""", "GenericError", "Internal error: NotSupportedException: a bug")]
    public void What_is_wrong_is_named_and_the_session_goes_on(string request, string errorClass, string named)
    {
        using RawClient client = RawClient.Negotiated(SocketPath);
        AssertError(client.Execute(request + "\n"), errorClass, named);
        Assert.Equal("still here", Echo(client, "still here"));
    }

    [Fact]
    public void Text_that_is_not_utf8_is_refused()
    {
        using RawClient client = RawClient.Negotiated(SocketPath);
        client.Send([.. "{\"execute\":\"\xc3"u8[..12], 0xc3, 0x28, .. "\"}\n"u8]);
        AssertError(client.Receive(), "GenericError", "not UTF-8");
        Assert.Equal("still here", Echo(client, "still here"));
    }

    [Fact]
    public async Task A_message_over_the_limit_ends_the_session_but_not_the_server()
    {
        using RawClient client = RawClient.Negotiated(SocketPath);
        Task sending = Task.Run(() =>
        {
            try
            {
                client.Send("{\"execute\":\"" + new string('x', 2 << 20));
            }
            catch (System.Net.Sockets.SocketException)
            {
                // The server has hung up, as it should.
            }
        });
        AssertError(client.Receive(), "GenericError", "longer than 1048576 bytes");
        Assert.Null(client.TryReceive());
        await sending.WaitAsync(Guard);
        using RawClient other = RawClient.Negotiated(SocketPath);
        Assert.Equal("alive", Echo(other, "alive"));
    }

    [Fact]
    public void One_byte_at_a_time_is_understood()
    {
        using RawClient client = RawClient.Negotiated(SocketPath);
        foreach (byte each in "{ \"execute\" : \"echo\", \"arguments\" : { \"text\" : \"slow\" } }"u8.ToArray())
        {
            client.Send([each]);
        }

        Assert.Equal("slow", client.Receive().GetProperty("return").GetString());
    }

    [Fact]
    public void Commands_sent_without_waiting_are_answered_in_order()
    {
        using RawClient client = RawClient.Negotiated(SocketPath);
        client.Send(string.Concat(Enumerable.Range(0, 500).Select(i => $$$"""{"execute":"echo","arguments":{"text":"{{{i}}}"}}""")));
        for (int i = 0; i < 500; i++)
        {
            Assert.Equal(i.ToString(CultureInfo.InvariantCulture), client.Receive().GetProperty("return").GetString());
        }
    }

    [Fact]
    public async Task A_command_that_waits_holds_up_nobody_else()
    {
        using RawClient waiting = RawClient.Negotiated(SocketPath);
        waiting.Send("""{"execute":"wait","id":"slow"}""");
        Assert.True(await _entered.WaitAsync(Guard));
        using RawClient other = RawClient.Negotiated(SocketPath);
        Assert.Equal("quick", Echo(other, "quick"));
        Server.Emit("TICK", writer => writer.WriteNumber("n", 1));
        Assert.Equal("TICK", waiting.Receive().GetProperty("event").GetString());
        _gate.Set();
        Assert.Equal("slow", waiting.Receive().GetProperty("id").GetString());
    }

    [Fact]
    public async Task Clients_that_leave_in_the_middle_of_anything_leave_the_server_well()
    {
        for (int i = 0; i < 20; i++)
        {
            using RawClient leaving = RawClient.Negotiated(SocketPath);
            leaving.Send("""{"execute":"wait"}{"execute":"ec""");
        }

        for (int i = 0; i < 20; i++)
        {
            Assert.True(await _entered.WaitAsync(Guard));
        }

        using RawClient client = RawClient.Negotiated(SocketPath);
        Assert.Equal("well", Echo(client, "well"));
    }

    [Fact]
    public void Events_reach_every_client_that_has_negotiated_with_the_time()
    {
        using RawClient one = RawClient.Negotiated(SocketPath);
        using RawClient two = RawClient.Negotiated(SocketPath);
        using var deaf = new RawClient(SocketPath);
        deaf.Receive();
        DateTimeOffset before = TimeProvider.System.GetUtcNow();
        Server.Emit("PLAIN");
        Server.Emit("DATA", writer => writer.WriteString("status", "active"));
        foreach (RawClient client in new[] { one, two })
        {
            JsonElement plain = client.Receive();
            Assert.Equal("PLAIN", plain.GetProperty("event").GetString());
            Assert.False(plain.TryGetProperty("data", out _));
            JsonElement timestamp = plain.GetProperty("timestamp");
            DateTimeOffset at = DateTimeOffset.FromUnixTimeSeconds(timestamp.GetProperty("seconds").GetInt64())
                + TimeSpan.FromMicroseconds(timestamp.GetProperty("microseconds").GetInt64());
            Assert.InRange(at, before - TimeSpan.FromMicroseconds(1), TimeProvider.System.GetUtcNow());
            Assert.Equal("active", client.Receive().GetProperty("data").GetProperty("status").GetString());
        }

        Assert.Equal("{}", deaf.Execute("""{"execute":"qmp_capabilities"}""").GetProperty("return").GetRawText());
    }

    [Fact]
    public async Task What_was_answered_is_delivered_before_the_server_closes()
    {
        using RawClient client = RawClient.Negotiated(SocketPath);
        Server.Emit("LAST");
        await Server.DisposeAsync();
        Assert.Equal("LAST", client.Receive().GetProperty("event").GetString());
        Assert.Null(client.TryReceive());
        Assert.False(File.Exists(SocketPath));
    }

    [Fact]
    public async Task A_stock_python_client_works()
    {
        const string Script = """
            import json, socket, sys
            s = socket.socket(socket.AF_UNIX); s.settimeout(30); s.connect(sys.argv[1])
            f = s.makefile('rw', encoding='utf-8')
            assert 'QMP' in json.loads(f.readline())
            def execute(name, **arguments):
                json.dump({'execute': name, 'arguments': arguments, 'id': name}, f); f.write('\n'); f.flush()
                while True:
                    reply = json.loads(f.readline())
                    if 'event' not in reply:
                        assert reply['id'] == name
                        return reply
            assert execute('qmp_capabilities')['return'] == {}
            assert execute('echo', text='grüße')['return'] == 'grüße'
            assert execute('nosuch')['error']['class'] == 'CommandNotFound'
            print('ok')
            """;
        Process process;
        try
        {
            process = Process.Start(new ProcessStartInfo("python3", ["-c", Script, SocketPath])
            {
                RedirectStandardOutput = true,
                RedirectStandardError = true,
                UseShellExecute = false,
            })!;
        }
        catch (System.ComponentModel.Win32Exception)
        {
            Assert.Skip("python3 is not installed");
            return;
        }

        using (process)
        {
            string output = await process.StandardOutput.ReadToEndAsync();
            string errors = await process.StandardError.ReadToEndAsync();
            await process.WaitForExitAsync().WaitAsync(Guard);
            Assert.True(output.Trim() == "ok", errors);
        }
    }

    [Fact]
    public async Task Our_own_client_runs_commands_at_the_same_time_and_keeps_events()
    {
        await using QmpClient client = await QmpClient.ConnectAsync(SocketPath);
        Task<JsonElement>[] replies = [.. Enumerable.Range(0, 50).Select(i => client.ExecuteAsync("echo", writer => writer.WriteString("text", $"{i}")))];
        Server.Emit("ONE", writer => writer.WriteNumber("n", 1));
        for (int i = 0; i < replies.Length; i++)
        {
            Assert.Equal($"{i}", (await replies[i].WaitAsync(Guard)).GetString());
        }

        QmpEvent happened = await client.Events.ReadAsync().AsTask().WaitAsync(Guard);
        Assert.Equal("ONE", happened.Name);
        Assert.Equal(1, happened.Data.GetProperty("n").GetInt32());
        QmpException refused = await Assert.ThrowsAsync<QmpException>(() => client.ExecuteAsync("nosuch"));
        Assert.Equal("CommandNotFound", refused.ErrorClass);
        await Server.DisposeAsync();
        await Assert.ThrowsAsync<QmpConnectionException>(() => client.ExecuteAsync("nothing"));
    }

    private static string? Echo(RawClient client, string text) =>
        client.Execute($$$"""{"execute":"echo","arguments":{"text":"{{{text}}}"}}""").GetProperty("return").GetString();

    private static void AssertError(JsonElement reply, string errorClass, string named, string? id = null)
    {
        JsonElement error = reply.GetProperty("error");
        Assert.Equal(errorClass, error.GetProperty("class").GetString());
        Assert.Contains(named, error.GetProperty("desc").GetString(), StringComparison.Ordinal);
        Assert.Equal(id, reply.TryGetProperty("id", out JsonElement given) ? given.GetRawText() : null);
    }
}
