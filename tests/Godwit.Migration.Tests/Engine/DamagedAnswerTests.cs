using System.Buffers;
using System.Net.Sockets;

namespace Godwit.Migration.Tests;

/// <summary>
/// What a destination says, damaged in every byte and ended at every byte: the source says what is wrong; its machine runs on, or stays stopped if
/// the commit has been sent.
/// </summary>
public sealed class DamagedAnswerTests : IDisposable
{
    private static readonly FrameType[] Asked = [FrameType.Description, FrameType.RoundEnd, FrameType.RoundEnd, FrameType.Prepare, FrameType.Commit];

    private readonly TempDirectory _directory = new();
    private readonly Socket _listener = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
    private readonly string _path;
    private readonly byte[][] _answers; // to each of what is asked

    public DamagedAnswerTests()
    {
        _path = _directory.File("answers.sock");
        _listener.Bind(new UnixDomainSocketEndPoint(_path));
        _listener.Listen();
        using TestMachine machine = Machine();
        var stream = new MemoryStream();
        using var writer = new FrameWriter(stream);
        var payload = new ArrayBufferWriter<byte>();
        var answers = new List<byte[]>();
        writer.WritePreface();
        DescriptionMessage.Write(payload, StreamDescription.Of(machine));
        Write(FrameType.Description);
        Write(FrameType.Accept);
        Cut();
        foreach (uint round in (uint[])[1, 2])
        {
            new RoundAckMessage(round, TimeSpan.FromMicroseconds(1), new DestinationNeeds(TimeSpan.FromMilliseconds(1), TimeSpan.FromMilliseconds(1), 1 << 30)).Write(payload);
            Write(FrameType.RoundAck);
            Cut();
        }

        Write(FrameType.Prepared);
        Cut();
        new RunningMessage(TimeSpan.FromMilliseconds(1)).Write(payload);
        Write(FrameType.Running);
        Cut();
        _answers = [.. answers];

        void Write(FrameType type)
        {
            writer.Write(type, payload.WrittenSpan);
            payload.ResetWrittenCount();
        }

        void Cut()
        {
            writer.Flush();
            answers.Add(stream.ToArray());
            stream.SetLength(0);
        }
    }

    [Fact]
    public void The_answers_themselves_are_a_migration()
    {
        (MigrationStatus status, TestMachine machine) = Migrate(_answers);
        using (machine)
        {
            Assert.True(status.State == MigrationState.Completed, status.Error);
            Assert.True(machine.PostMigrate);
        }
    }

    [Fact]
    public void A_flipped_bit_in_any_byte_is_found()
    {
        int seed = Random.Shared.Next();
        var random = new Random(seed);
        for (int answer = 0; answer < _answers.Length; answer++)
        {
            for (int i = 0; i < _answers[answer].Length; i++)
            {
                byte[][] answers = [.. _answers];
                answers[answer] = [.. _answers[answer]];
                answers[answer][i] ^= (byte)(1 << random.Next(8));
                AssertFailed(answers, answer, $"answer {answer}, byte {i}, seed {seed}");
            }
        }
    }

    [Fact]
    public void Answers_that_end_anywhere_are_found()
    {
        for (int answer = 0; answer < _answers.Length; answer++)
        {
            for (int length = 0; length < _answers[answer].Length; length++)
                AssertFailed([.. _answers[..answer], _answers[answer][..length]], answer, $"answer {answer}, {length} bytes");
        }
    }

    public void Dispose()
    {
        _listener.Dispose();
        _directory.Dispose();
    }

    private static TestMachine Machine()
    {
        var machine = new TestMachine(mebibytes: 2, devices: 0);
        machine.States.Clear();
        return machine;
    }

    private void AssertFailed(byte[][] answers, int wrong, string what)
    {
        (MigrationStatus status, TestMachine machine) = Migrate(answers);
        using (machine)
        {
            Assert.True(status.State == MigrationState.Failed, $"{what}: {status.State}");
            Assert.False(string.IsNullOrEmpty(status.Error), what);
            // The last answer is that to the commit.
            bool committed = wrong == Asked.Length - 1;
            Assert.True(machine.PostMigrate == committed, $"{what}: {status.Error}");
            Assert.True(machine.Executing != committed, $"{what}: {status.Error}");
            Assert.False(machine.Ram.Dirty.Enabled, what);
        }
    }

    /// <summary>Migrates to a destination that says <paramref name="answers"/>, each when its turn has come, and hangs up after the last.</summary>
    private (MigrationStatus Status, TestMachine Machine) Migrate(byte[][] answers)
    {
        TestMachine machine = Machine();
        using var controller = new MigrationController(machine, TimeProvider.System);
        // So that there are two rounds however slow this is.
        controller.Parameters = new MigrationParameters { DowntimeLimit = TimeSpan.FromSeconds(2000) };
        using var ended = new ManualResetEventSlim();
        controller.StateChanged += state =>
        {
            if (MigrationProgress.IsOver(state))
                ended.Set();
        };
        controller.Start($"unix:{_path}");
        using (Socket socket = _listener.Accept())
        {
            try
            {
                Answer(socket, answers);
            }
            catch (Exception e) when (e is IOException or SocketException)
            {
                // The source has hung up because of what it was told.
            }
        }

        Assert.True(ended.Wait(Pair.Patience), $"{controller.Status.State}");
        return (controller.Status, machine);
    }

    private static void Answer(Socket socket, byte[][] answers)
    {
        using var stream = new NetworkStream(socket);
        var reader = new FrameReader(stream);
        reader.ReadPreface();
        for (int turn = 0; turn < answers.Length; turn++)
        {
            while (reader.ReadHeader() is var header)
            {
                reader.ReadPayload(header);
                if (header.Type == Asked[turn])
                    break;
            }

            if (answers[turn].Length > 0)
                socket.Send(answers[turn]);
            if (turn < answers.Length - 1 || answers.Length < Asked.Length)
                continue;
            socket.Shutdown(SocketShutdown.Send);
            // Until the source has read it and hangs up, too.
            while (true)
                reader.ReadPayload(reader.ReadHeader());
        }
    }
}
