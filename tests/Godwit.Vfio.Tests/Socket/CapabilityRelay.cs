using System.Buffers.Binary;
using System.Runtime.ExceptionServices;
using System.Text;
using Godwit.Interop.Linux;

namespace Godwit.Vfio.Tests;

/// <summary>A real server that says something else of itself in VERSION: one client is relayed to it, and what it answers first is changed.</summary>
internal sealed class CapabilityRelay : IDisposable
{
    private const int Header = 16; // vfio-user specification, "Header": size of the message at offset 4
    private const int BeforeText = Header + 4;

    private readonly DirectoryInfo _directory = Directory.CreateTempSubdirectory("gwvcap");
    private readonly SocketHandle _listener;
    private readonly SocketHandle _server;
    private readonly Func<string, string> _change;
    private readonly Thread _toServer;
    private SocketHandle? _client;
    private ExceptionDispatchInfo? _failure;

    public CapabilityRelay(string server, Func<string, string> change)
    {
        Path = System.IO.Path.Combine(_directory.FullName, "s");
        _change = change;
        _listener = SocketHandle.Listen(Path, 1);
        _server = SocketHandle.Connect(server, DeviceServer.Patience);
        _toServer = new Thread(Run) { IsBackground = true };
        _toServer.Start();
    }

    public string Path { get; }

    public void Dispose()
    {
        _listener.Shutdown();
        _server.Shutdown();
        _client?.Shutdown();
        Assert.True(_toServer.Join(DeviceServer.Patience), "the relay does not end");
        _client?.Dispose();
        _server.Dispose();
        _listener.Dispose();
        _directory.Delete(recursive: true);
        _failure?.Throw();
    }

    private void Run()
    {
        try
        {
            _client = _listener.Accept();
        }
        catch (LinuxException)
        {
            return; // nobody came
        }
        var toClient = new Thread(() => Pass(_server, _client, changeFirst: true));
        toClient.Start();
        Pass(_client, _server, changeFirst: false);
        toClient.Join();
    }

    private void Pass(SocketHandle from, SocketHandle to, bool changeFirst)
    {
        byte[] buffer = new byte[1 << 16];
        int[] numbers = new int[16];
        try
        {
            int length;
            while ((length = from.Receive(buffer, numbers, out int count, out _)) != 0)
            {
                FileDescriptor[] files = [.. numbers[..count].Select(FileDescriptor.Adopt)];
                to.Send(changeFirst ? Changed(buffer.AsSpan(0, length)) : buffer.AsSpan(0, length), default, files);
                changeFirst = false;
                foreach (FileDescriptor file in files)
                    file.Dispose();
            }
        }
        catch (LinuxException)
        {
            // one of the two has gone
        }
        catch (Exception e)
        {
            _failure = ExceptionDispatchInfo.Capture(e);
        }
        from.Shutdown();
        to.Shutdown();
    }

    /// <summary>The answer to VERSION, which servers send in one piece, with another text.</summary>
    private byte[] Changed(ReadOnlySpan<byte> message)
    {
        Assert.Equal(message.Length, (int)BinaryPrimitives.ReadUInt32LittleEndian(message[4..]));
        string text = Encoding.UTF8.GetString(message[BeforeText..^1]);
        byte[] result = [.. message[..BeforeText], .. Encoding.UTF8.GetBytes(_change(text)), 0];
        BinaryPrimitives.WriteUInt32LittleEndian(result.AsSpan(4), (uint)result.Length);
        return result;
    }
}
