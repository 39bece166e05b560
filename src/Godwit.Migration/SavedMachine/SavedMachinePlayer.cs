using System.Buffers;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using Godwit.Memory;

namespace Godwit.Migration;

/// <summary>
/// A source that is a file: it speaks the stream over a socket pair, on a thread of its own, so that a restored machine passes every check
/// of one that comes over a network. The file is only read; whether it may be used again is its owner's to know.
/// </summary>
internal sealed unsafe class SavedMachinePlayer : IChannelPeer
{
    private const int PagesPerFrame = 64;

    private readonly string _path;
    private readonly SavedMachineLayout _layout;
    private readonly SavedMachineFile _file;
    private readonly MigrationChannel _channel;
    private readonly FrameWriter _writer;
    private readonly FrameReader _tail;
    private readonly ArrayBufferWriter<byte> _payload = new();
    private readonly Thread _thread;
    private ulong _pages;
    private ulong _zeroPages;

    private SavedMachinePlayer(string path, SavedMachineLayout layout, ulong tailBytes, SavedMachineFile file, MigrationChannel channel)
    {
        _path = path;
        _layout = layout;
        _file = file;
        _channel = channel;
        _writer = new FrameWriter(channel);
        _tail = new FrameReader(new SavedMachineTail(file, layout.TailOffset, tailBytes));
        _thread = new Thread(Run) { Name = "godwit-restore", IsBackground = true };
    }

    /// <inheritdoc/>
    public string EndNote => "";

    /// <summary>The channel from a player of the file.</summary>
    /// <exception cref="IOException">It cannot be opened, or is no complete saved machine.</exception>
    internal static MigrationChannel Open(FileMigrationUri uri, TimeProvider clock)
    {
        SavedMachineFile file = SavedMachineFile.OpenToRead(uri.Path);
        try
        {
            SavedMachineLayout layout = SavedMachineLayout.Read(uri.Path, file, out ulong tailBytes);
            (Socket theirs, Socket own) = InheritedSocket.CreatePair();
            var player = new SavedMachinePlayer(uri.Path, layout, tailBytes, file, new MigrationChannel(own, clock));
            player._thread.Start();
            return new MigrationChannel(theirs, clock, player);
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    /// <summary>Waits until the player has ended, which it does with its channel.</summary>
    public void Dispose() => _thread.Join();

    private void Run()
    {
        var back = new Thread(Listen) { Name = "godwit-restore-return", IsBackground = true };
        back.Start();
        byte* pages = (byte*)NativeMemory.AlignedAlloc(PagesPerFrame * RamPage.Size, RamPage.Size);
        try
        {
            Play(pages);
        }
        catch (IOException e)
        {
            SayFailed($"Restoring from {_path}: {e.Message}");
        }
        finally
        {
            back.Join();
            // SAFETY: nothing is read into it any more.
            NativeMemory.AlignedFree(pages);
            _writer.Dispose();
            _file.Dispose();
            _channel.Dispose();
        }
    }

    private void Play(byte* pages)
    {
        _writer.WritePreface(); // first, as what is wrong with the file is said to the destination
        _tail.ReadPreface();
        FrameHeader header = _tail.ReadHeader();
        if (header.Type != FrameType.Description)
            MigrationStreamException.Throw(header, "type", header.Type.ToString(), "a Description comes first");
        _writer.Write(FrameType.Description, _tail.ReadPayload(header));
        new RoundBeginMessage(1, Final: true).Write(_payload);
        Say(FrameType.RoundBegin);
        for (int block = 0; block < _layout.Sizes.Count; block++)
            PlayBlock(block, pages);
        new RoundEndMessage(1, _pages, _zeroPages).Write(_payload);
        Say(FrameType.RoundEnd);
        do
        {
            header = _tail.ReadHeader();
            _writer.Write(header.Type, _tail.ReadPayload(header));
        }
        while (header.Type != FrameType.Commit);
        _writer.Flush();
    }

    private void PlayBlock(int block, byte* pages)
    {
        ulong start = _layout.OffsetOf(block);
        ulong end = start + _layout.Sizes[block];
        Span<byte> head = stackalloc byte[PageRun.Size];
        for (ulong at = start; at < end;)
        {
            // Holes are found in the file system's units; a page that is partly one is read.
            ulong data = _file.Next(at, end, data: true) & ~(ulong)(RamPage.Size - 1);
            if (data > at)
            {
                var zeros = new PageRun(block, (at - start) >> RamPage.Shift, (data - at) >> RamPage.Shift);
                zeros.Write(head);
                _writer.Write(FrameType.ZeroPages, head);
                _zeroPages += zeros.Count;
                at = data;
                continue;
            }

            ulong hole = Math.Min(end, (_file.Next(at, end, data: false) + RamPage.Size - 1) & ~(ulong)(RamPage.Size - 1));
            var run = new PageRun(block, (at - start) >> RamPage.Shift, Math.Clamp((hole - at) >> RamPage.Shift, 1, PagesPerFrame));
            // SAFETY: the buffer has PagesPerFrame pages.
            _file.Read(at, new Span<byte>(pages, (int)run.Count * RamPage.Size));
            _writer.WritePages(run, pages);
            _pages += run.Count;
            at += run.Count << RamPage.Shift;
        }
    }

    /// <summary>What the destination says is its operator's to hear, not this file's; but when it ends, so does this.</summary>
    private void Listen()
    {
        byte[] waste = new byte[4096];
        try
        {
            while (_channel.Read(waste) > 0)
            {
            }
        }
        catch (IOException)
        {
            // Aborted, which is an end as well.
        }

        _channel.Abort("The destination has ended the restore");
    }

    private void Say(FrameType type)
    {
        _writer.Write(type, _payload.WrittenSpan);
        _payload.ResetWrittenCount();
    }

    private void SayFailed(string error)
    {
        try
        {
            _payload.ResetWrittenCount();
            new FailureMessage(false, error).Write(_payload);
            Say(FrameType.Failure);
            _writer.Flush();
        }
        catch (IOException)
        {
            // The destination has ended it first.
        }
    }
}
