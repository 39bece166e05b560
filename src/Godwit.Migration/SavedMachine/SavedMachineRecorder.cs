using System.Buffers;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using Godwit.Memory;

namespace Godwit.Migration;

/// <summary>
/// A destination that does not run the machine but puts it into a file: it speaks the stream's other half over a socket pair, on a thread of
/// its own, so that saving has the rounds, the checks, the commit point and the way back of every other migration. The file has another
/// name until the commit, and goes away when none comes.
/// </summary>
internal sealed unsafe class SavedMachineRecorder : IChannelPeer
{
    private const string PartSuffix = ".part";

    private static readonly TimeSpan SignOfLife = LinkWatch.DefaultTimeout / 6;

    private readonly string _path;
    private readonly SavedMachineLayout _layout;
    private readonly SavedMachineFile _file;
    private readonly MigrationChannel _channel;
    private readonly FrameReader _reader;
    private readonly FrameWriter _writer;
    private readonly SavedMachineTail _tailStream;
    private readonly FrameWriter _tail;
    private readonly TimeProvider _clock;
    private readonly PageSet _written;
    private readonly PageSet _torn; // what the guest wrote while it was sent, and what has not come again since
    private readonly ArrayBufferWriter<byte> _payload = new();
    private readonly List<PagePlace> _differences = [];
    private readonly Thread _thread;
    private ulong _compared;
    private ulong _differing;
    private bool _final;

    private SavedMachineRecorder(string path, SavedMachineLayout layout, SavedMachineFile file, MigrationChannel channel, TimeProvider clock)
    {
        _path = path;
        _layout = layout;
        _file = file;
        _channel = channel;
        _clock = clock;
        _reader = new FrameReader(channel);
        _writer = new FrameWriter(channel);
        _tailStream = new SavedMachineTail(file, layout.TailOffset, 0);
        _tail = new FrameWriter(_tailStream);
        _written = new PageSet(layout.PageCount);
        _torn = new PageSet(layout.PageCount);
        _thread = new Thread(Run) { Name = "godwit-save", IsBackground = true };
    }

    /// <inheritdoc/>
    public string EndNote => "";

    /// <summary>The channel to a recorder that makes the file.</summary>
    /// <exception cref="IOException">There is something at the path, or the file cannot be made.</exception>
    internal static MigrationChannel Open(FileMigrationUri uri, IReadOnlyList<RamBlock> blocks, TimeProvider clock)
    {
        if (Path.Exists(uri.Path))
            throw new IOException($"Cannot save to {uri.Path}: it exists; remove it or choose another name");
        SavedMachineFile file = SavedMachineFile.Create(uri.Path + PartSuffix);
        try
        {
            SavedMachineLayout layout = SavedMachineLayout.Of(blocks);
            (Socket theirs, Socket own) = InheritedSocket.CreatePair();
            var recorder = new SavedMachineRecorder(uri.Path, layout, file, new MigrationChannel(own, clock), clock);
            recorder._thread.Start();
            return new MigrationChannel(theirs, clock, recorder);
        }
        catch
        {
            file.Dispose();
            File.Delete(uri.Path + PartSuffix);
            throw;
        }
    }

    /// <summary>Waits until the recorder has ended, which it does with its channel.</summary>
    public void Dispose() => _thread.Join();

    private void Run()
    {
        bool complete = false;
        byte* pages = (byte*)NativeMemory.AlignedAlloc(StreamFormat.MaxPagesPerFrame * RamPage.Size, RamPage.Size);
        // A disk may take longer for a flush than a peer may be silent.
        ITimer alive = _clock.CreateTimer(static state => ((SavedMachineRecorder)state!).SayAlive(), this, SignOfLife, SignOfLife);
        try
        {
            ShakeHands();
            while (!complete)
                complete = TakeFrame(pages);
        }
        catch (Exception e)
        {
            SayFailed($"Saving to {_path}: {e.Message}");
        }
        finally
        {
            alive.Dispose();
            _file.Dispose();
            if (!complete)
                File.Delete(_path + PartSuffix);
            // SAFETY: nothing reads into it any more.
            NativeMemory.AlignedFree(pages);
            _tail.Dispose();
            _writer.Dispose();
            _channel.Dispose();
        }
    }

    private void ShakeHands()
    {
        _reader.ReadPreface();
        FrameHeader header;
        do
            header = _reader.ReadHeader();
        while (header.Type == FrameType.KeepAlive); // of a side that is slow to begin
        if (header.Type != FrameType.Description)
            MigrationStreamException.Throw(header, "type", header.Type.ToString(), "a Description comes first");
        ReadOnlySpan<byte> description = _reader.ReadPayload(header);
        _tail.WritePreface();
        _tail.Write(FrameType.Description, description);
        // The machine that will be restored from this is the machine that is saved.
        _writer.WritePreface();
        _writer.Write(FrameType.Description, description);
        _writer.Write(FrameType.Accept, default);
        _writer.Flush();
    }

    /// <summary>Does what the next frame says; true when it was the commit and the file is complete.</summary>
    private bool TakeFrame(byte* pages)
    {
        FrameHeader header = _reader.ReadHeader();
        if (header.Type == FrameType.Pages)
        {
            TakePages(header, pages);
            return false;
        }

        ReadOnlySpan<byte> payload = _reader.ReadPayload(header);
        switch (header.Type)
        {
            case FrameType.KeepAlive:
                break;
            case FrameType.RoundBegin:
                _final = RoundBeginMessage.Read(header, payload).Final;
                break;
            case FrameType.ZeroPages:
                TakeZeros(header, PageRun.Read(header, payload));
                break;
            case FrameType.RoundEnd:
                if (!_final)
                    _file.Flush(); // so that the rate that is measured is the disk's
                new RoundAckMessage(RoundEndMessage.Read(header, payload).Number, TimeSpan.Zero, default).Write(_payload);
                Say(FrameType.RoundAck);
                break;
            case FrameType.DeviceState or FrameType.DeviceStateEnd or FrameType.MachineStateBegin or FrameType.MachineStateData
                or FrameType.MachineStateEnd or FrameType.VerifyBegin:
                _tail.Write(header.Type, payload);
                break;
            case FrameType.Prepare:
                CheckTorn(header);
                // Read back, RAM comes in one round.
                (PrepareMessage.Read(header, payload) with { Rounds = 1 }).Write(_payload);
                _tail.Write(FrameType.Prepare, _payload.WrittenSpan);
                _payload.ResetWrittenCount();
                FlushAll();
                Say(FrameType.Prepared);
                break;
            case FrameType.PageChecksums:
                Compare(header, payload, pages);
                _tail.Write(FrameType.PageChecksums, payload);
                break;
            case FrameType.VerifyEnd:
                _tail.Write(FrameType.VerifyEnd, default);
                FlushAll();
                new VerifyResultMessage(_compared, _differing, _differences).Write(_payload);
                Say(FrameType.VerifyResult);
                break;
            case FrameType.Commit:
                _tail.Write(FrameType.Commit, payload);
                Complete();
                new RunningMessage(TimeSpan.Zero).Write(_payload);
                Say(FrameType.Running);
                _channel.FinishAndDrain(TimeSpan.FromSeconds(1));
                return true;
            case FrameType.Failure:
                throw new MigrationFailedException(FailureMessage.Read(header, payload).Text);
            default:
                MigrationStreamException.Throw(header, "type", header.Type.ToString(), "the machine may not say this");
                break;
        }

        return false;
    }

    private void TakePages(in FrameHeader header, byte* pages)
    {
        PageRun run = _reader.ReadPagesHead(header);
        ulong offset = _layout.OffsetOf(header, run);
        Span<ulong> torn = stackalloc ulong[StreamFormat.MaxPagesPerFrame / 64];
        // SAFETY: the buffer is as large as the largest frame's pages, and nobody else writes it.
        bool any = _reader.ReadPages(header, run, pages, torn);
        _file.Write(offset, new ReadOnlySpan<byte>(pages, (int)run.Count * RamPage.Size));
        ulong first = Page(offset);
        _written.Add(first, run.Count);
        _torn.Remove(first, run.Count);
        for (int page = 0; any && page < (int)run.Count; page++)
        {
            if ((torn[page / 64] & (1UL << (page % 64))) != 0)
                _torn.Add(first + (ulong)page, 1);
        }
    }

    private void TakeZeros(in FrameHeader header, in PageRun run)
    {
        ulong first = Page(_layout.OffsetOf(header, run));
        ulong end = first + run.Count;
        for (ulong page = _written.Next(first, end, inSet: true); page < end;)
        {
            ulong stop = _written.Next(page, end, inSet: false);
            _file.Clear(SavedMachineLayout.RamOffset + (page << RamPage.Shift), (stop - page) << RamPage.Shift);
            page = _written.Next(stop, end, inSet: true);
        }

        _written.Remove(first, run.Count);
        _torn.Remove(first, run.Count);
    }

    /// <summary>The guest stands still: what it wrote while it was sent must have come again.</summary>
    private void CheckTorn(in FrameHeader header)
    {
        if (_torn.Count > 0)
            MigrationStreamException.Throw(header, "pages", _torn.Count, "so many came other than their checksums say, and not again");
    }

    /// <summary>Reads pages back and compares them with what the stopped machine has.</summary>
    private void Compare(in FrameHeader header, ReadOnlySpan<byte> payload, byte* pages)
    {
        PageRun run = PageRun.Read(header, payload);
        ulong offset = _layout.OffsetOf(header, run);
        ReadOnlySpan<UInt128> theirs = MemoryMarshal.Cast<byte, UInt128>(payload[PageRun.Size..]);
        UInt128 own;
        for (int page = 0; page < theirs.Length; page++)
        {
            int inPiece = page % StreamFormat.MaxPagesPerFrame;
            if (inPiece == 0)
            {
                int count = Math.Min(StreamFormat.MaxPagesPerFrame, theirs.Length - page);
                // SAFETY: the buffer has MaxPagesPerFrame pages.
                var piece = new Span<byte>(pages, count * RamPage.Size);
                // The tail is behind RAM, so all of it is there to be read, holes as zeros.
                _file.Read(offset + ((ulong)page << RamPage.Shift), piece);
            }

            // SAFETY: a page of the buffer, and a local of 16 bytes.
            PageChecksum.Compute(pages + ((long)inPiece * RamPage.Size), (ulong*)&own);
            if (own == theirs[page])
                continue;
            _differing++;
            if (_differences.Count < StreamFormat.MaxDifferencesListed)
                _differences.Add(new PagePlace(run.Block, run.FirstPage + (ulong)page));
        }

        _compared += run.Count;
    }

    private void Complete()
    {
        FlushAll();
        _file.Write(0, _layout.Header(_tailStream.Done));
        _file.Flush();
        _file.MoveTo(_path);
    }

    private void FlushAll()
    {
        _tail.Flush();
        _file.Flush();
    }

    private static ulong Page(ulong offset) => (offset - SavedMachineLayout.RamOffset) >> RamPage.Shift;

    private void Say(FrameType type)
    {
        _writer.Write(type, _payload.WrittenSpan);
        _payload.ResetWrittenCount();
        _writer.Flush();
    }

    private void SayAlive()
    {
        try
        {
            _writer.TryWriteNow(FrameType.KeepAlive);
        }
        catch (IOException)
        {
            // The machine has ended the migration; the thread that reads from it sees that, too.
        }
    }

    private void SayFailed(string error)
    {
        try
        {
            _payload.ResetWrittenCount();
            new FailureMessage(false, error).Write(_payload);
            Say(FrameType.Failure);
            _channel.FinishAndDrain(TimeSpan.FromSeconds(1));
        }
        catch (IOException)
        {
            // The machine has ended the migration, which is why this one ends.
        }
    }
}
